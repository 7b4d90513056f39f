"""Every error Nexgate raises, and every cause it answers a client with.

Two families share this module because they describe the same failures from two sides:

* ``NexgateError`` and its children are what Python code catches.
* ``Cause`` is what a client sees: a stable problem type (RFC 9457), a status and the ``Site`` that
  says in which phase and on whose side it went wrong. ``docs/reference/errors.md`` has a section
  per cause, which is where the ``type`` URI of a problem points.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

PROBLEM_BASE: Final = "https://nexgate.dev/problems/"
"""Prefix of every problem ``type``. Stable: clients compare these URIs, they need not resolve."""


class NexgateError(Exception):
    """Root of every exception that Nexgate raises on purpose."""


class ConfigError(NexgateError):
    """A configuration that cannot be used. ``str()`` lists every problem, not only the first."""


class Site(Enum):
    """Where an exchange failed: whose side, and in which phase."""

    CLIENT_CONNECT = "client/connect"
    CLIENT_REQUEST_HEAD = "client/request-head"
    CLIENT_REQUEST_BODY = "client/request-body"
    CLIENT_RESPONSE = "client/response"
    GATEWAY = "gateway"
    UPSTREAM_CONNECT = "upstream/connect"
    UPSTREAM_REQUEST = "upstream/request"
    UPSTREAM_RESPONSE_HEAD = "upstream/response-head"
    UPSTREAM_RESPONSE_BODY = "upstream/response-body"
    TUNNEL = "tunnel"


class Cause(Enum):
    """Why the gateway itself answered. Value: (slug, status, title, site)."""

    # The client's side.
    BAD_REQUEST = ("bad-request", 400, "The request is malformed", Site.CLIENT_REQUEST_HEAD)
    BAD_FRAMING = (
        "bad-framing",
        400,
        "The length of the request body is ambiguous",
        Site.CLIENT_REQUEST_HEAD,
    )
    BAD_PATH = ("bad-path", 400, "The path of the request is not safe", Site.CLIENT_REQUEST_HEAD)
    BAD_BODY = ("bad-body", 400, "The request body is malformed", Site.CLIENT_REQUEST_BODY)
    NOT_FOUND = ("no-route", 404, "No route matches", Site.GATEWAY)
    METHOD_NOT_ALLOWED = ("method-not-allowed", 405, "The method is not allowed", Site.GATEWAY)
    HEAD_TIMEOUT = (
        "request-head-timeout",
        408,
        "The request head took too long",
        Site.CLIENT_REQUEST_HEAD,
    )
    BODY_TIMEOUT = (
        "request-body-timeout",
        408,
        "The request body made no progress",
        Site.CLIENT_REQUEST_BODY,
    )
    BODY_TOO_LARGE = (
        "request-body-too-large",
        413,
        "The request body is too large",
        Site.CLIENT_REQUEST_BODY,
    )
    URI_TOO_LONG = ("uri-too-long", 414, "The URI is too long", Site.CLIENT_REQUEST_HEAD)
    EXPECTATION_FAILED = (
        "expectation-failed",
        417,
        "The expectation cannot be met",
        Site.CLIENT_REQUEST_HEAD,
    )
    MISDIRECTED = ("misdirected", 421, "This server does not answer for that host", Site.GATEWAY)
    HEAD_TOO_LARGE = (
        "request-head-too-large",
        431,
        "The request head is too large",
        Site.CLIENT_REQUEST_HEAD,
    )
    NOT_IMPLEMENTED = (
        "method-not-implemented",
        501,
        "The method is not implemented",
        Site.CLIENT_REQUEST_HEAD,
    )
    UNKNOWN_CODING = (
        "unknown-transfer-coding",
        501,
        "The transfer coding is not implemented",
        Site.CLIENT_REQUEST_HEAD,
    )
    UNKNOWN_VERSION = (
        "http-version-not-supported",
        505,
        "The HTTP version is not supported",
        Site.CLIENT_REQUEST_HEAD,
    )
    # Ours.
    FILTER_FAILED = ("filter-failed", 500, "A filter of the gateway failed", Site.GATEWAY)
    INTERNAL = ("internal-error", 500, "The gateway failed", Site.GATEWAY)
    NO_INSTANCE = ("no-instance", 503, "No instance of the service is available", Site.GATEWAY)
    CIRCUIT_OPEN = ("circuit-open", 503, "The service is failing and gets a pause", Site.GATEWAY)
    OVERLOADED = ("overloaded", 503, "The service is at its limit", Site.GATEWAY)
    DRAINING = ("draining", 503, "The gateway is shutting down", Site.GATEWAY)
    TOTAL_TIMEOUT = ("total-timeout", 504, "The request took too long", Site.GATEWAY)
    # The upstream's side.
    UPSTREAM_UNREACHABLE = (
        "upstream-unreachable",
        502,
        "The service could not be reached",
        Site.UPSTREAM_CONNECT,
    )
    UPSTREAM_CONNECT_TIMEOUT = (
        "upstream-connect-timeout",
        504,
        "Connecting to the service took too long",
        Site.UPSTREAM_CONNECT,
    )
    UPSTREAM_TLS = (
        "upstream-tls",
        502,
        "The TLS handshake with the service failed",
        Site.UPSTREAM_CONNECT,
    )
    UPSTREAM_CLOSED = (
        "upstream-closed",
        502,
        "The service closed the connection without an answer",
        Site.UPSTREAM_RESPONSE_HEAD,
    )
    UPSTREAM_MALFORMED = (
        "upstream-malformed",
        502,
        "The service sent a malformed answer",
        Site.UPSTREAM_RESPONSE_HEAD,
    )
    UPSTREAM_FIRST_BYTE_TIMEOUT = (
        "upstream-timeout",
        504,
        "The service took too long to answer",
        Site.UPSTREAM_RESPONSE_HEAD,
    )
    RESPONSE_TOO_LARGE = (
        "response-too-large",
        502,
        "The answer is too large",
        Site.UPSTREAM_RESPONSE_BODY,
    )
    UPSTREAM_CUT = (
        "upstream-cut",
        502,
        "The service cut its answer short",
        Site.UPSTREAM_RESPONSE_BODY,
    )
    UPSTREAM_STALLED = (
        "upstream-stalled",
        504,
        "The service stopped sending its answer",
        Site.UPSTREAM_RESPONSE_BODY,
    )
    APP_FAILED = (
        "application-failed",
        500,
        "The application raised an exception",
        Site.UPSTREAM_RESPONSE_HEAD,
    )

    def __init__(self, slug: str, status: int, title: str, site: Site) -> None:
        self.slug = slug
        self.status = status
        self.title = title
        self.site = site

    @property
    def type(self) -> str:
        """The problem type URI of RFC 9457 §3.1.1."""
        return PROBLEM_BASE + self.slug


class Refused(NexgateError):
    """The exchange ends with a problem of the given cause. Raised by codecs and policies.

    ``detail`` is shown to the client: it may name what *they* sent, never an address or a secret of
    ours.
    """

    def __init__(self, cause: Cause, detail: str = "") -> None:
        super().__init__(cause, detail)
        self.cause = cause
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.cause.slug}: {self.detail or self.cause.title}"
