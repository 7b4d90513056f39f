"""The field that tells a program who calls: readable, and not to be forged by an odd name."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from nexgate.sidecar._identity import Identity, identity_of


class Peer:
    """What a TLS connection says about its other end."""

    def __init__(self, subject: tuple[Any, ...], names: tuple[tuple[str, str], ...]) -> None:
        self.found = {"subject": subject, "subjectAltName": names}

    def getpeercert(self, binary_form: bool = False) -> Any:
        return b"DER" if binary_form else self.found


def identity(*subject: tuple[str, str], names: tuple[tuple[str, str], ...] = ()) -> Identity:
    found = identity_of(Peer(tuple((pair,) for pair in subject), names))  # type: ignore[arg-type]  # a double
    assert found is not None
    return found


def test_all_there_is_to_tell() -> None:
    found = identity(
        ("organizationName", "Example"),
        ("commonName", "Orders"),
        names=(
            ("DNS", "orders"),
            ("IP Address", "10.0.0.7"),
            ("URI", "spiffe://example/orders"),
            ("DNS", "orders.mesh"),
        ),
    )
    digest = hashlib.sha256(b"DER").hexdigest()
    assert found.field.value.decode() == (
        f'Hash={digest};Subject="CN=Orders,O=Example";URI=spiffe://example/orders;'
        "DNS=orders;DNS=orders.mesh"
    )
    assert found.names == {"orders", "orders.mesh"}


def test_nobody_showed_a_certificate() -> None:
    assert identity_of(None) is None


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ('a";DNS=root', '"CN=a\\\\\\"\\\\;DNS\\\\=root"'),
        ("a,CN=root", '"CN=a\\\\,CN\\\\=root"'),
        ("é\r\nX: y", '"CN=\\\\C3\\\\A9\\\\0D\\\\0AX: y"'),
        ("#a ", '"CN=\\\\#a\\\\ "'),
    ],
)
def test_a_subject_that_would_say_more_is_escaped(name: str, written: str) -> None:
    value = identity(("commonName", name)).field.value.decode()
    assert value.partition("Subject=")[2] == written


@pytest.mark.parametrize("name", ["a;DNS=root", "a,DNS=root", 'a"', "a b", "a\r\nb", "é"])
def test_a_name_that_would_say_more_is_quoted(name: str) -> None:
    found = identity(names=(("DNS", name),))
    value = found.field.value.decode("ascii")
    assert value.partition(";DNS=")[2].startswith('"')
    assert "\r" not in value
    assert "root" not in found.names


def test_a_certificate_with_a_thousand_names_makes_no_endless_field() -> None:
    found = identity(names=tuple(("DNS", f"n{n}.{'x' * 60}") for n in range(1000)))
    assert len(found.field.value) < 4096
