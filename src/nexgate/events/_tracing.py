"""Spans around publishing and handling, when somebody gave us a tracer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._event import Event

__all__ = ["Tracing"]


class Tracing:
    """Uses ``opentelemetry-api``, which whoever has a tracer has installed."""

    def __init__(self, tracer: Any) -> None:
        from opentelemetry import propagate, trace

        self._tracer = tracer
        self._propagate = propagate
        self._trace = trace

    @contextmanager
    def publishing(self, event: Event) -> Iterator[None]:
        """A producer's span, whose context the event carries."""
        with self._tracer.start_as_current_span(
            f"publish {event.name}",
            kind=self._trace.SpanKind.PRODUCER,
            attributes={"messaging.operation.type": "send", "messaging.message.id": event.id},
        ):
            carrier: dict[str, str] = {}
            self._propagate.inject(carrier)
            event.traceparent = carrier.get("traceparent", event.traceparent)
            yield

    @contextmanager
    def handling(self, event: Event, handler: str) -> Iterator[None]:
        """A consumer's span, below the one that published."""
        carrier = {"traceparent": event.traceparent} if event.traceparent else {}
        with self._tracer.start_as_current_span(
            f"handle {event.name}",
            context=self._propagate.extract(carrier),
            kind=self._trace.SpanKind.CONSUMER,
            attributes={
                "messaging.operation.type": "process",
                "messaging.message.id": event.id,
                "code.function.name": handler,
            },
        ):
            yield
