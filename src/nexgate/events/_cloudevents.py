"""CloudEvents 1.0.2, the form of events on the wire: structured JSON, and binary over HTTP.

=================  ============================================================
``name``           ``type``
``key``            ``partitionkey`` (extension "partitioning")
``correlation``    ``correlationid``, ``causation`` ``causationid`` (extension "correlation")
``traceparent``    ``traceparent`` (extension "distributed tracing")
``data``           ``data``, as JSON
=================  ============================================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, unquote

from pydantic_core import from_json, to_json

from ._errors import EventError
from ._event import Event
from ._topics import check_topic

__all__ = [
    "InvalidCloudEvent",
    "decode",
    "encode",
    "from_cloudevent",
    "from_http",
    "to_cloudevent",
    "to_http",
]

CONTENT_TYPE: Final = "application/cloudevents+json"
_MAX_BYTES: Final = 1024 * 1024
_MAX_DEPTH: Final = 64
_LONGEST: Final = 1024
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""What no String of CloudEvents has (§3.1); without it, attributes are safe as header fields."""
_DEEP: Final = 100
"""Brackets from which on content may be nested more deeply than it can be read again."""

_ATTRIBUTES: Final = {
    "key": "partitionkey",
    "subject": "subject",
    "correlation": "correlationid",
    "causation": "causationid",
    "traceparent": "traceparent",
}


class InvalidCloudEvent(EventError):
    """Something that was received is no CloudEvent."""


def to_cloudevent(event: Event) -> dict[str, Any]:
    """The event as a mapping of JSON values: ``json.dumps`` of it is the structured form. Raises
    ``EventError`` for what a CloudEvent cannot have.
    """
    found: dict[str, Any] = from_json(encode(event))
    return found


def encode(event: Event) -> bytes:
    """The structured form: what ``decode`` can read. Raises ``EventError`` for attributes that are
    no text, too long (1,024 characters) or have control characters, and for data that is not JSON.
    """
    return _to_json(event, {**_attributes(event), "data": event.data})


def decode(body: bytes) -> Event:
    """What ``encode`` made. Raises ``InvalidCloudEvent``: anybody can write to a file or stream."""
    try:
        said = from_json(body)
    except ValueError as error:
        raise InvalidCloudEvent(f"it is not JSON: {error}") from None
    return from_cloudevent(said)


def _to_json(event: Event, value: Any) -> bytes:
    try:
        made = to_json(value)
        # It writes what nobody can read again: rare, so it is looked for only where it may be.
        may_be_deep = len(made) > _DEEP and made.count(b"{") + made.count(b"[") > _DEEP
        if may_be_deep or b"NaN" in made or b"Infinity" in made:
            from_json(made, allow_inf_nan=False)
    except Exception as error:
        raise EventError(f"{event.name}: its data is not JSON: {error}") from None
    return made


def _attributes(event: Event) -> dict[str, Any]:
    try:
        found: dict[str, Any] = {
            "specversion": "1.0",
            "id": event.id,
            "source": event.source or "nexgate",
            "type": check_topic(event.name),
            "time": event.time_text,
            "datacontenttype": "application/json",
        }
        for ours, theirs in _ATTRIBUTES.items():
            if (value := getattr(event, ours)) is not None:
                found[theirs] = value
        if not _is_harmless(found.values()):
            for name, value in found.items():
                _checked(name, value)
    except (ValueError, OverflowError) as error:  # of a time that no calendar has, too
        raise EventError(f"{event.name}: {error}") from None
    return found


def _is_harmless(values: Collection[Any]) -> bool:
    """Whether a look at all of them together is enough, which it nearly always is."""
    try:
        text = "".join(values)
    except TypeError:
        return False
    return len(text) <= _LONGEST and text.isprintable() and "" not in values


def _checked(name: str, value: Any) -> str:
    """``value``, when it may be an attribute. Raises ``ValueError``."""
    if not isinstance(value, str) or not value or len(value) > _LONGEST:
        raise ValueError(f"its {name} is not text of 1 to {_LONGEST} characters")
    if not value.isprintable() and _CONTROL.search(value) is not None:
        raise ValueError(f"its {name} has control characters")
    return value


def from_cloudevent(said: Mapping[str, Any] | bytes | str) -> Event:
    """The event that a structured CloudEvent is. Raises ``InvalidCloudEvent``: nothing in it is
    trusted; at most 1 MiB, 64 levels deep, no key twice, no ``NaN``.
    """
    if isinstance(said, (bytes, str)):
        said = _parse(said)
    if not isinstance(said, Mapping):
        raise InvalidCloudEvent("it is not an object")
    if said.get("specversion") != "1.0":
        raise InvalidCloudEvent("specversion is not 1.0")
    more: dict[str, str] = {}
    try:
        for name in ("id", "source"):
            _checked(name, said.get(name))
        _checked("type", said.get("type"))
        for ours, theirs in _ATTRIBUTES.items():
            value = said.get(theirs)
            if value is not None:
                more[ours] = _checked(theirs, value)
    except ValueError as error:
        raise InvalidCloudEvent(str(error)) from None
    try:
        check_topic(said["type"])
    except ValueError as error:
        raise InvalidCloudEvent(f"its type: {error}") from None
    if "data_base64" in said:
        raise InvalidCloudEvent("data is binary; only JSON is taken")
    return Event(
        said["type"],
        said.get("data"),
        id=said["id"],
        time=_time(said.get("time")),
        source=said["source"],
        **more,
    )


def to_http(event: Event) -> tuple[dict[str, str], bytes]:
    """Fields and content of an HTTP message in the binary form (CloudEvents HTTP binding §3.1)."""
    fields = {"Content-Type": "application/json"}
    for name, value in _attributes(event).items():
        if name != "datacontenttype":
            fields[f"ce-{name}"] = quote(str(value), safe=" !#$&'()*+,/:;=?@[]-._~^`{|}<>")
    return fields, _to_json(event, event.data)


def from_http(fields: Mapping[str, str], content: bytes) -> Event:
    """The event in an HTTP message, binary or structured. Raises ``InvalidCloudEvent``."""
    known = {name.lower(): value for name, value in fields.items()}
    kind = known.get("content-type", "").partition(";")[0].strip().lower()
    if kind == CONTENT_TYPE:
        return from_cloudevent(content)
    if kind != "application/json":
        raise InvalidCloudEvent("the content is neither a CloudEvent nor JSON")
    said: dict[str, Any] = {
        name[3:]: unquote(value) for name, value in known.items() if name.startswith("ce-")
    }
    said["data"] = _parse(content)
    return from_cloudevent(said)


def _time(said: Any) -> datetime | None:
    if said is None:
        return None
    if not isinstance(said, str):
        raise InvalidCloudEvent("time is no text")
    try:
        found = datetime.fromisoformat(said)
        if found.tzinfo is None:
            raise InvalidCloudEvent("time has no offset")
        return found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidCloudEvent("time is not RFC 3339") from None


def _parse(text: bytes | str) -> Any:
    if len(text) > _MAX_BYTES:
        raise InvalidCloudEvent(f"it has more than {_MAX_BYTES} bytes")
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        found = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_twice)
    except RecursionError:
        raise InvalidCloudEvent("it is nested too deeply") from None
    except ValueError as error:
        raise InvalidCloudEvent(f"it is not JSON: {error}") from None
    _check_depth(found, _MAX_DEPTH)
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _check_depth(value: Any, left: int) -> None:
    if left < 0:
        raise InvalidCloudEvent("it is nested too deeply")
    if isinstance(value, dict):
        for each in value.values():
            _check_depth(each, left - 1)
    elif isinstance(value, list):
        for each in value:
            _check_depth(each, left - 1)
