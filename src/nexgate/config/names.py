"""Names and values of HTTP in a configuration: tokens, field names, field values, hosts."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, PlainValidator, WithJsonSchema

from .secret import SecretText
from .section import wrong

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FORBIDDEN_IN_VALUE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_HOST_LABEL: Final = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_HOST: Final = re.compile(rf"{_HOST_LABEL}(?:\.{_HOST_LABEL})*\.?")


def parse_token(value: object) -> str:
    """A token of RFC 9110 §5.6.2."""
    if not isinstance(value, str):
        raise wrong("must be text")
    if not _TOKEN.fullmatch(value):
        raise wrong("must be a token of HTTP", "letters, digits and any of !#$%&'*+-.^_`|~")
    return str(value)


def parse_field_name(value: object) -> str:
    """The name of a field: a token, as written."""
    if isinstance(value, str) and value.strip().endswith(":"):
        raise wrong("is not a field name", "leave out the colon")
    if isinstance(value, str) and value.startswith(":"):
        raise wrong("is not a field name", "pseudo-fields of HTTP/2 are not fields")
    return parse_token(value)


def _field_value(value: SecretText) -> SecretText:
    text = value.reveal()
    if _FORBIDDEN_IN_VALUE.search(text):
        # This is how a field becomes two: whoever fills the variable must not be able to.
        raise wrong("has a line break or a control character", is_secret=True)
    if text != text.strip(" \t"):
        raise wrong("begins or ends with a blank", "HTTP drops it", is_secret=True)
    if not text.isascii():
        # HTTP never agreed on an encoding for more; what arrives would depend on who reads it.
        raise wrong("has a character that is not ASCII", "percent-encode it", is_secret=True)
    return value


def parse_host_name(value: str) -> str:
    """A lower-case host name in ASCII, without a port."""
    host = value.lower()
    if len(host) <= 253 and _HOST.fullmatch(host):
        return host
    if not host.isascii():
        try:
            ascii_form = host.encode("idna").decode("ascii")
        except UnicodeError:
            ascii_form = ""
        raise wrong("must be in ASCII", f'did you mean "{ascii_form}"?' if ascii_form else "")
    raise wrong("is not a host name")


def _host_pattern(value: object) -> str:
    if not isinstance(value, str):
        raise wrong("must be text", 'for example "api.example.com" or "*.example.com"')
    if "://" in value or "/" in value:
        raise wrong("is not a host name", "a host only: no scheme, no path")
    if value == "*":
        raise wrong("is not a host name", "leave it out to match every host")
    if re.fullmatch(r"\[[0-9A-Fa-f:.]+\]", value):
        return value.lower()
    if re.search(r":[0-9]*$", value, re.ASCII):
        raise wrong("is not a host name", "leave out the port")
    bare = value.removeprefix("*.")
    if "*" in bare:
        raise wrong("has a wildcard that is not its first label", 'write "*.example.com"')
    host = parse_host_name(bare).removesuffix(".")
    return f"*.{host}" if bare != value else host


Token = Annotated[
    str, PlainValidator(parse_token), WithJsonSchema({"type": "string", "minLength": 1})
]
"""A token of RFC 9110 §5.6.2."""

FieldName = Annotated[
    str, PlainValidator(parse_field_name), WithJsonSchema({"type": "string", "minLength": 1})
]
"""The name of a header field, as written."""

FieldValue = Annotated[SecretText, AfterValidator(_field_value)]
"""The value of a header field. A secret always: credentials live in header fields."""

HostPattern = Annotated[
    str,
    PlainValidator(_host_pattern),
    WithJsonSchema({"type": "string", "examples": ["api.example.com", "*.example.com"]}),
]
"""A host name in lower case without a port; ``*.`` in front stands for one or more labels."""
