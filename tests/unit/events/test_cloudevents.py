"""CloudEvents 1.0.2: what goes out comes back, and what others send is not trusted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexgate.events import (
    Event,
    EventError,
    InvalidCloudEvent,
    from_cloudevent,
    from_http,
    to_cloudevent,
    to_http,
)
from nexgate.events._cloudevents import decode, encode

EVENT = Event(
    "order.created",
    {"id": 1, "note": "grün"},
    id="e-1",
    key="customer 7",
    source="/shop",
    subject="orders/1",
    time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    correlation="c",
    causation="d",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)


def same(one: Event, other: Event) -> bool:
    return to_cloudevent(one) == to_cloudevent(other)


def test_the_structured_form() -> None:
    said = to_cloudevent(EVENT)
    assert said == {
        "specversion": "1.0",
        "id": "e-1",
        "source": "/shop",
        "type": "order.created",
        "time": "2026-01-02T03:04:05.000000Z",
        "datacontenttype": "application/json",
        "partitionkey": "customer 7",
        "subject": "orders/1",
        "correlationid": "c",
        "causationid": "d",
        "traceparent": EVENT.traceparent,
        "data": {"id": 1, "note": "grün"},
    }
    assert same(from_cloudevent(json.dumps(said)), EVENT)
    assert same(from_cloudevent(json.dumps(said).encode()), EVENT)


def test_the_binary_form_over_http() -> None:
    fields, content = to_http(EVENT)
    assert fields["ce-type"] == "order.created"
    assert fields["ce-partitionkey"] == "customer 7"
    assert json.loads(content) == EVENT.data
    assert same(from_http(fields, content), EVENT)
    structured = json.dumps(to_cloudevent(EVENT)).encode()
    assert same(
        from_http({"content-type": "application/cloudevents+json; charset=utf-8"}, structured),
        EVENT,
    )


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=10,
    ),
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=50),
)
def test_any_json_comes_back_as_it_went(data: Any, key: str) -> None:
    event = Event("a", data, key=key)
    back = from_cloudevent(json.dumps(to_cloudevent(event)))
    assert (back.data, back.key, back.id) == (event.data, key, event.id)
    back = from_http(*to_http(event))
    assert (back.data, back.key, back.id) == (event.data, key, event.id)


def test_a_typed_event_is_sent_as_its_fields() -> None:
    @dataclass
    class Paid:
        at: datetime
        amount: int

    at = datetime(2026, 1, 1, tzinfo=UTC)
    back = from_cloudevent(json.dumps(to_cloudevent(Event("paid", Paid(at, 3)))))
    assert back.as_type(Paid) == Paid(at, 3)
    with pytest.raises(EventError, match="is not JSON"):
        to_cloudevent(Event("a", {"x": object()}))


GOOD = {"specversion": "1.0", "id": "1", "source": "s", "type": "a"}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("[]", "not an object"),
        ("7", "not an object"),
        ("{", "not JSON"),
        ('{"specversion": "1.0", "id": "1", "id": "2"}', "twice"),
        (json.dumps({**GOOD, "data": float("nan")}), "NaN is not JSON"),
        (json.dumps({**GOOD, "specversion": "0.3"}), "specversion"),
        (json.dumps({**GOOD, "id": ""}), "its id is not text"),
        (json.dumps({**GOOD, "id": 7}), "its id is not text"),
        (json.dumps({**GOOD, "type": "a b"}), "type"),
        (json.dumps({**GOOD, "type": "a.*"}), "type"),
        (json.dumps({**GOOD, "time": "yesterday"}), "RFC 3339"),
        (json.dumps({**GOOD, "time": "2026-01-01T00:00:00"}), "no offset"),
        (json.dumps({**GOOD, "time": "0001-01-01T00:00:00+10:00"}), "RFC 3339"),
        (json.dumps({**GOOD, "time": 7}), "time is no text"),
        (json.dumps({**GOOD, "subject": "a\r\nce-id: 2"}), "subject has control"),
        (json.dumps({**GOOD, "partitionkey": "k" * 2000}), "partitionkey"),
        (json.dumps({**GOOD, "partitionkey": 7}), "partitionkey"),
        (json.dumps({**GOOD, "data_base64": "AA=="}), "binary"),
        ('{"data": ' + "[" * 100 + "]" * 100 + "}", "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "not JSON"),
        ('{"data": "' + "x" * 2_000_000 + '"}', "more than"),
    ],
)
def test_what_is_no_cloudevent_is_refused_with_its_reason(said: Any, why: str) -> None:
    with pytest.raises(InvalidCloudEvent, match=why):
        from_cloudevent(said)


def nested(levels: int) -> Any:
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (Event("a", id=""), "its id is not text of 1 to 1024"),
        (Event("a", id="1\n2"), "its id has control characters"),
        (Event("a", key="k" * 1025), "its partitionkey is not text"),
        (Event("a", key=7), "its partitionkey is not text"),  # type: ignore[arg-type]  # on purpose
        (Event("a", key="\ud800"), "its partitionkey has control characters"),
        (Event("a", subject=""), "its subject is not text"),
        (Event("a b"), "is not a topic"),
        (Event("a", time=1e30), "a: "),
        (Event("a", {"x": float("nan")}), "is not JSON"),
        (Event("a", [float("-inf")]), "is not JSON"),
        (Event("a", nested(230)), "is not JSON"),
        (Event("a", {"x": "\ud800"}), "is not JSON"),
    ],
)
def test_what_nobody_could_read_again_is_refused_by_whoever_sends_it(
    event: Event, why: str
) -> None:
    for send in (encode, to_cloudevent, to_http):
        with pytest.raises(EventError, match=why):
            send(event)


def test_text_that_only_looks_like_a_number_is_sent() -> None:
    event = Event("a", {"NaN": "Infinity", "x": [[]] * 200, "deep": nested(150)})
    assert decode(encode(event)).data == event.data


def test_a_time_is_kept_as_it_was_given() -> None:
    assert Event("a", time=0.0).timestamp == datetime(1970, 1, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="no offset"):
        Event("a", time=datetime(2026, 1, 1))  # noqa: DTZ001  # on purpose


def test_http_content_of_another_type_is_refused() -> None:
    with pytest.raises(InvalidCloudEvent, match="neither"):
        from_http({"Content-Type": "text/plain"}, b"x")
    with pytest.raises(InvalidCloudEvent, match="specversion"):
        from_http({"Content-Type": "application/json"}, b"{}")


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_nothing_but_one_exception_comes_of_garbage(said: Any) -> None:
    try:
        from_cloudevent(said)
    except InvalidCloudEvent:
        pass
