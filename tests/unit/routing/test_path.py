"""The normal form of a path: what is refused, what is decoded, and that it is decoded once."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nexgate.errors import Cause, Refused
from nexgate.routing import PathRules, matching_key, normalise
from nexgate.routing._path import unquote

STRICT = PathRules()
KEEP = PathRules(encoded_slash="keep")
UNMERGED = PathRules(merge_slashes=False)

# Pieces an attacker composes a path of, rather than random bytes that are refused at once.
PIECES = st.sampled_from(
    rb"/ // . .. ; a B % %2 25 2e %2e %2F %5c %25 %252e %25%32%65 %00 %3b %40 @ \ ~ %7e |".split()
    + rb"%7C ? + %2B %2525 %41 %c0%ae %c3%A9".split()
    + [b" ", b"\x80"]
)
PATHS = st.one_of(
    st.lists(PIECES, max_size=12).map(lambda pieces: b"/" + b"".join(pieces)),
    st.binary(max_size=30),
    st.binary(max_size=30).map(lambda tail: b"/" + tail),
)
RULES = st.builds(
    PathRules,
    merge_slashes=st.booleans(),
    encoded_slash=st.sampled_from(["reject", "keep"]),
    ignore_case=st.booleans(),
)


def refusal(path: bytes, rules: PathRules = STRICT) -> str:
    with pytest.raises(Refused) as caught:
        normalise(path, rules)
    assert caught.value.cause is Cause.BAD_PATH
    return caught.value.detail


@pytest.mark.parametrize(
    "path",
    b"/ /a/b /a/ /.well-known/x /a/.../b /a/..b /a/b.. /a;x=1/b;y /@me/a:b /a|b /x{y}".split(),
)
def test_an_ordinary_path_is_returned_as_the_same_object(path: bytes) -> None:
    assert normalise(path, STRICT) is path


@pytest.mark.parametrize(
    "byte", [*range(0x21), 0x22, 0x23, 0x3C, 0x3E, 0x3F, 0x5C, *range(0x7F, 256)]
)
def test_a_byte_without_a_place_in_a_path_is_refused_raw(byte: int) -> None:
    assert f"0x{byte:02x}" in refusal(b"/a" + bytes([byte]))


@pytest.mark.parametrize("byte", [*range(0x20), 0x7F])
@pytest.mark.parametrize("form", ["%%%02x", "%%%02X"])
def test_an_encoded_control_character_is_refused_under_every_rule(byte: int, form: str) -> None:
    path = b"/a" + (form % byte).encode()
    assert "control" in refusal(path)
    assert "control" in refusal(path, KEEP)


@pytest.mark.parametrize("path", [b"/%", b"/%2", b"/%zz", b"/%u002e", b"/a%%41", b"/% 41"])
def test_what_is_not_percent_encoding_is_refused(path: bytes) -> None:
    refusal(path)


@pytest.mark.parametrize("path", [b"", b"*", b"a/b", b"http://x/"])
def test_a_target_that_is_not_a_path_is_refused(path: bytes) -> None:
    assert "start" in refusal(path)


@pytest.mark.parametrize(
    "path",
    b"/%252e%252e/x /%252E /%252f /%255C /%2500 /%250d%250A /%25252e /%25%32%65 /%25%32f".split(),
)
def test_what_a_second_decoding_would_make_dangerous_is_refused(path: bytes) -> None:
    refusal(path)


def test_a_harmless_encoded_percent_is_kept_and_not_decoded_again() -> None:
    assert normalise(b"/100%25", STRICT) == b"/100%25"
    assert normalise(b"/%2541", STRICT) == b"/%2541"
    assert normalise(b"/%252e", KEEP) == b"/%252e"


@pytest.mark.parametrize(
    "path", [b"/%c0%ae%c0%ae/", b"/%C0%AF", b"/%c1%9c", b"/%e0%80%af", b"/%f0%80%80%af"]
)
def test_overlong_utf_8_is_refused(path: bytes) -> None:
    assert "overlong" in refusal(path)


@pytest.mark.parametrize("path", [b"/..", b"/../", b"/a/../..", b"/%2e%2e/x", b"/a/.%2e/../b"])
def test_climbing_above_the_root_is_refused(path: bytes) -> None:
    assert "root" in refusal(path)


@pytest.mark.parametrize(
    "path", [b"/a/..;/b", b"/a/.;x/b", b"/%2e%2e;/", b"/a/..%3b/b", b"/..;x=1"]
)
def test_a_dot_segment_with_parameters_is_refused(path: bytes) -> None:
    assert "dot segment" in refusal(path)


@pytest.mark.parametrize(
    "path", [b"/a/..%2Fb", b"/a%2f..", b"/a%5c..%5cb", b"/.%2fa", b"/a%2F../b"]
)
def test_a_dot_segment_behind_a_kept_slash_is_refused(path: bytes) -> None:
    assert "dot segment" in refusal(path, KEEP)


def test_a_kept_slash_is_upper_case_and_no_separator() -> None:
    assert normalise(b"/group%2fproject/..", KEEP) == b"/"
    assert normalise(b"/group%2fproject", KEEP) == b"/group%2Fproject"


def test_slashes_are_merged_before_dot_segments_are_removed() -> None:
    assert normalise(b"/a//../b", STRICT) == b"/b"
    assert normalise(b"/a//../b", UNMERGED) == b"/a/b"
    assert normalise(b"//a//", UNMERGED) == b"//a//"


def test_case_is_folded_for_matching_but_not_in_the_forwarded_path() -> None:
    rules = PathRules(ignore_case=True)
    assert normalise(b"/Users/A", rules) == b"/Users/A"
    assert matching_key(b"/Users/%C3%89", rules) == b"/users/%c3%89"


def test_reserved_characters_match_alike_encoded_or_not() -> None:
    assert matching_key(b"/%40me%3B%2B/%7B%7C", STRICT) == b"/@me;+/{|"
    assert matching_key(b"/%2F%5C%25%3F%23%20", KEEP) == b"/%2F%5C%25%3F%23%20"
    assert matching_key(b"/%2540", STRICT) == b"/%2540"


@settings(derandomize=True, deadline=None, max_examples=1000)
@given(PATHS, RULES)
@example(b"/%2\x35", STRICT)
@example(b"/a/%2e/../b", UNMERGED)
def test_any_input_is_refused_or_brought_to_a_safe_and_stable_form(
    path: bytes, rules: PathRules
) -> None:
    try:
        normal = normalise(path, rules)
    except Refused:
        return
    assert normalise(normal, rules) == normal
    assert normal.startswith(b"/")
    for trap in (b"/../", b"/./", b"\\", b"/..;", b"/.;", b"?", b"#"):
        assert trap not in normal + b"/"
    assert not rules.merge_slashes or b"//" not in normal
    assert all(0x21 <= byte < 0x7F for byte in normal)
    # Not even a reader who decodes once more, or twice, sees another structure.
    if rules.encoded_slash == "reject":
        for reading in (unquote(normal), unquote(unquote(normal))):
            assert reading.count(b"/") == normal.count(b"/")
            assert b"\\" not in reading
            assert b"\0" not in reading
            assert not {b".", b".."} & {part.split(b";")[0] for part in reading.split(b"/")}


@settings(derandomize=True, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_text_that_was_encoded_once_is_the_same_text_when_decoded_once(parts: list[str]) -> None:
    encoded = b"/" + b"/".join(
        b"".join(b"%%%02x" % byte for byte in part.encode("utf-8", "replace")) for part in parts
    )
    try:
        normal = normalise(encoded, PathRules(encoded_slash="keep"))
    except Refused:
        return
    if not {".", ".."} & set(parts):
        assert unquote(normal) == unquote(encoded)


def test_a_hostile_path_costs_time_in_proportion_to_its_length() -> None:
    for path in (
        b"/" + b"a" * 65536 + b'"',
        b"/a" * 32768 + b"//",
        b"/%2525" * 8192,
        b"/../a" * 9000,
    ):
        start = time.perf_counter()
        try:
            normalise(path, STRICT)
        except Refused:
            pass
        assert time.perf_counter() - start < 0.1
