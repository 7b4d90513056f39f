"""What a call of a service raises: what happened, to what, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nexgate.errors import Cause, NexgateError, Site

if TYPE_CHECKING:
    from nexgate.client._response import ServiceResponse

__all__ = [
    "ServiceBodyTooLarge",
    "ServiceConnectionError",
    "ServiceError",
    "ServiceStatusError",
    "ServiceTimeout",
    "ServiceUnavailable",
    "error_for",
]


class ServiceError(NexgateError):
    """A call that brought no answer. The facts are attributes, for callers that branch on them."""

    def __init__(
        self,
        service: str,
        cause: Cause,
        detail: str = "",
        *,
        instance: str = "",
        retry_after: float | None = None,
        attempts: int = 0,
    ) -> None:
        super().__init__(service, cause, detail)
        self.service = service
        self.cause = cause
        """Why; the same causes as in the gateway's problems."""
        self.detail = detail
        self.instance = instance
        """URL of the instance that was asked last; empty when none was."""
        self.retry_after = retry_after
        """Seconds after which it may be worth another try; ``None`` where that is not known."""
        self.attempts = attempts
        """How often something may have reached an instance."""

    @property
    def site(self) -> Site:
        """Whose side it was on, and in which phase."""
        return self.cause.site

    @property
    def retry_safe(self) -> bool:
        """Whether certainly nothing reached the service, so that anything may be tried again.

        The cause is that of the last attempt: an open circuit may have refused the retry of a
        request that has been sent before.
        """
        return self.cause in _NOTHING_SENT and not self.attempts

    def __str__(self) -> str:
        where = f" ({self.instance})" if self.instance else ""
        what = _WORDS.get(self.cause) or self.cause.title[0].lower() + self.cause.title[1:]
        detail = f": {self.detail}" if self.detail else ""
        after = f"; try again in {self.retry_after:.1f}s" if self.retry_after else ""
        return f"{self.service}{where}: {what}{detail}{after}"


class ServiceUnavailable(ServiceError):
    """Nobody was asked: there is no instance, the circuit is open, or a limit is reached."""


class ServiceTimeout(ServiceError, TimeoutError):
    """It took too long. The service may still be at it."""


class ServiceConnectionError(ServiceError, ConnectionError):
    """No connection, or one that broke; or what came back was not HTTP."""


class ServiceBodyTooLarge(ServiceError):
    """The answer has more content than ``max_body_bytes``. Stream it, or raise the limit."""


class ServiceStatusError(NexgateError):
    """``raise_for_status``: the service answered, with a status from 400 on."""

    def __init__(self, service: str, response: ServiceResponse) -> None:
        super().__init__(service, response)
        self.service = service
        self.response = response
        """The whole answer."""

    @property
    def status(self) -> int:
        return self.response.status

    def __str__(self) -> str:
        start = self.response.body[:200].decode("utf-8", "replace")
        return f"{self.service} ({self.response.instance}) answered {self.status}: {start}"


_WORDS: Final = {Cause.DRAINING: "the client was closed before the answer was complete"}
"""Where the gateway's title would be wrong here."""
_NOTHING_SENT: Final = frozenset(
    (
        Cause.NO_INSTANCE,
        Cause.CIRCUIT_OPEN,
        Cause.OVERLOADED,
        Cause.UPSTREAM_UNREACHABLE,
        Cause.UPSTREAM_CONNECT_TIMEOUT,
        Cause.UPSTREAM_TLS,
    )
)
_KINDS: Final[dict[Cause, type[ServiceError]]] = {
    Cause.NO_INSTANCE: ServiceUnavailable,
    Cause.CIRCUIT_OPEN: ServiceUnavailable,
    Cause.OVERLOADED: ServiceUnavailable,
    Cause.TOTAL_TIMEOUT: ServiceTimeout,
    Cause.UPSTREAM_CONNECT_TIMEOUT: ServiceTimeout,
    Cause.UPSTREAM_FIRST_BYTE_TIMEOUT: ServiceTimeout,
    Cause.UPSTREAM_STALLED: ServiceTimeout,
    Cause.RESPONSE_TOO_LARGE: ServiceBodyTooLarge,
}


def error_for(
    service: str,
    cause: Cause,
    detail: str,
    instance: str,
    retry_after: float | None,
    attempts: int,
) -> ServiceError:
    """The error of the class that says what kind of failure it was."""
    kind = _KINDS.get(cause, ServiceConnectionError)
    return kind(
        service, cause, detail, instance=instance, retry_after=retry_after, attempts=attempts
    )
