"""Staying up when others do not: breakers, retries and their budget, bulkheads, deadlines, hedges.

Each part decides at once, does no I/O, and is usable alone; see
``docs/reference/resilience.md``. Times are seconds on a monotonic clock.
"""

from __future__ import annotations

from ._adaptive import AdaptiveLimit
from ._backoff import Backoff
from ._breaker import CircuitBreaker, Guard
from ._budget import RetryBudget
from ._bulkhead import SHARES, Bulkhead, BulkheadFullError, Priority, Slot, Ticket
from ._circuit_config import CircuitConfig
from ._circuit_events import (
    CallRecorded,
    CallRefused,
    CircuitEvent,
    CircuitOpenError,
    CircuitState,
    CircuitStatistics,
    StateChanged,
)
from ._deadline import (
    Deadline,
    DeadlineExceeded,
    current_deadline,
    format_timeout_header,
    parse_grpc_timeout,
    parse_timeout_header,
)
from ._hedge import hedged
from ._quantile import Quantile
from ._retry import Retrier, retry
from ._retry_policy import RetryPolicy, parse_retry_after

__all__ = [
    "SHARES",
    "AdaptiveLimit",
    "Backoff",
    "Bulkhead",
    "BulkheadFullError",
    "CallRecorded",
    "CallRefused",
    "CircuitBreaker",
    "CircuitConfig",
    "CircuitEvent",
    "CircuitOpenError",
    "CircuitState",
    "CircuitStatistics",
    "Deadline",
    "DeadlineExceeded",
    "Guard",
    "Priority",
    "Quantile",
    "Retrier",
    "RetryBudget",
    "RetryPolicy",
    "Slot",
    "StateChanged",
    "Ticket",
    "current_deadline",
    "format_timeout_header",
    "hedged",
    "parse_grpc_timeout",
    "parse_retry_after",
    "parse_timeout_header",
    "retry",
]
