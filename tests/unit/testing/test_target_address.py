from __future__ import annotations

import pytest

from nexgate.testing._address import Address


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (("127.0.0.1", 80), Address("127.0.0.1", 80)),
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("http://example.test/path?q", Address("example.test", 80)),
        ("https://127.0.0.1:8443", Address("127.0.0.1", 8443, is_tls=True)),
        ("wss://example.test", Address("example.test", 443, is_tls=True)),
        ("http://[::1]:9000", Address("::1", 9000)),
        ("unix:/run/service.sock", Address("localhost", 0, path="/run/service.sock")),
    ],
)
def test_every_form_of_an_address_is_read(
    written: str | tuple[str, int], expected: Address
) -> None:
    assert Address.parse(written) == expected


@pytest.mark.parametrize("written", ["ftp://example.test", "http://", ""])
def test_something_else_is_refused_with_the_forms_to_write(written: str) -> None:
    with pytest.raises(ValueError, match="write host:port"):
        Address.parse(written)
