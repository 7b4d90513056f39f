"""Records that are trusted with nothing."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexgate.discovery import ServiceInstance
from nexgate.discovery._url import normal_url
from nexgate.discovery._verdict import read_verdict, write_verdict
from nexgate.upstream.config import parse_instance_url

URLS = [
    "http://h", "http://H:80/", "HTTP://[::1]:8080", "https://a.b", "http://h:", "http://:80",
    "http://h:0", "http://h:99999", "http://h:٣", "http://h/p", "http://h?q", "http://h#f",
    "http://h\\x", "http://u@h", "http://u:p@h", "http:h", "http:/h", "//h", "h:80", "", "unix:/a",
    "unix:a", "unix://a", "unix:/" + "x" * 200, "UNIX:/a", "asgi:m:a", "asgi:m.n:a.b", "asgi:m",
    "asgi:1:2", "ws://h", "ftp://h", "http://1.2.3", "http://1.2.3.4", "http://[::1", "http://::1",
    "http://[::1]x", "http://ä", "http://-a", "http://a_b:1", "http://h:80/ ", " http://h",
    "http://h\n", "http://[1.2.3.4]", "http://h//", "http://[fe80::1%25eth0]",
]  # fmt: skip


def answer(parse: Any, value: object) -> object:
    try:
        return parse(value)
    except ValueError:
        return ValueError


@pytest.mark.parametrize("url", [*URLS, 3, None, b"http://h"])
def test_a_url_is_read_as_the_configuration_reads_it(url: object) -> None:
    assert answer(normal_url, url) == answer(parse_instance_url, url)


@settings(max_examples=500)
@given(
    st.one_of(
        st.text(alphabet="htps:/[]@.?#\\a1 %xunigé", max_size=20),
        st.builds(
            "{}{}{}".format,
            st.sampled_from(["http://", "https://", "unix:", "asgi:", "HTTP://"]),
            st.text(alphabet="a.-_1:[]/@?#\\é ", max_size=12),
            st.sampled_from(["", ":80", ":0", "/", ":a", "]"]),
        ),
    )
)
def test_no_spelling_is_read_in_two_ways(url: str) -> None:
    assert answer(normal_url, url) == answer(parse_instance_url, url)


def test_the_face_of_the_tutorial() -> None:
    instance = ServiceInstance(
        id="1", name="api", url="http://localhost:8000/", health="healthy", last_check=1.5
    )
    assert instance.url == "http://localhost:8000"
    assert instance == ServiceInstance("1", "api", "http://localhost:8000", "healthy")
    assert hash(instance) == hash(ServiceInstance("1", "api", "http://localhost:8000", "healthy"))
    with pytest.raises(FrozenInstanceError):
        instance.health = "unhealthy"  # type: ignore[misc]
    with pytest.raises(TypeError):
        instance.metadata["a"] = "b"  # type: ignore[index]


def test_a_record_comes_back_as_it_went() -> None:
    instance = ServiceInstance(
        "a/b", "api", "unix:/run/x", "unhealthy", 3.0, 7, "eu", "1.2", frozenset({"x", "y"}),
        {"k": "v"}, "/up?x",
    )  # fmt: skip
    assert ServiceInstance.from_json(instance.to_json()) == instance
    more = json.loads(instance.to_json()) | {"from the future": [1]}
    assert ServiceInstance.from_json(json.dumps(more).encode()) == instance


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""}, {"id": 3}, {"id": "a\nb"}, {"name": "a b"}, {"name": None}, {"url": "ftp://h"},
        {"url": 3}, {"health": "fine"}, {"weight": 0}, {"weight": True}, {"weight": 1.5},
        {"weight": 10**9}, {"last_check": "now"}, {"last_check": None}, {"zone": ""}, {"zone": 1},
        {"version": "x" * 129}, {"tags": "ab"}, {"tags": [1]}, {"tags": ["x"] * 65}, {"tags": None},
        {"metadata": []}, {"metadata": {"a": 1}}, {"metadata": {"": "x"}},
        {"metadata": {"a": "x" * 1025}}, {"health_path": "up"}, {"health_path": "/a b"},
        {"health_path": "/\r\nX: y"}, {"health_path": None},
    ],
)  # fmt: skip
def test_a_record_with_one_thing_wrong_is_refused(change: dict[str, object]) -> None:
    record = json.loads(ServiceInstance("1", "api", "http://h:1").to_json()) | change
    with pytest.raises(ValueError):
        ServiceInstance.from_json(json.dumps(record).encode())


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=60), st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["id", "name", "url", "tags", "metadata", "weight"]), inner, max_size=4
    ),
    max_leaves=8,
).map(lambda found: json.dumps(found).encode())))  # fmt: skip
def test_bytes_of_any_kind_are_a_record_or_a_value_error(data: bytes) -> None:
    try:
        ServiceInstance.from_json(data)
    except ValueError:
        pass
    read_verdict(data)


def test_records_are_bounded() -> None:
    with pytest.raises(ValueError, match="more than"):
        ServiceInstance.from_json(b" " * 70_000)
    with pytest.raises(ValueError, match="not JSON"):
        ServiceInstance.from_json(b"[" * 60_000)


def test_a_verdict_comes_back_and_anything_else_is_none() -> None:
    assert read_verdict(write_verdict("http://h", "unhealthy", 2.0)) == ("http://h", "unhealthy", 2)
    for bad in (b"", b"[]", b"3", b'{"url":1,"health":"healthy","last_check":1}',
                b'{"url":"u","health":"x","last_check":1}', b'{"url":"u","health":"healthy"}',
                b'{"url":"u","health":"healthy","last_check":1e999}'):  # fmt: skip
        assert read_verdict(bad) is None
