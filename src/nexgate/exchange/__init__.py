"""The exchange: one client request and its response, and what takes part in it."""

from nexgate.exchange._errors import BodyTooLarge, ClientGone
from nexgate.exchange._exchange import Exchange
from nexgate.exchange._incoming import HELD_BYTES
from nexgate.exchange._plan import CallNext, Hook, Plan
from nexgate.exchange._request import Request
from nexgate.exchange._response import Response
from nexgate.exchange._sides import (
    Attempt,
    Caller,
    Downstream,
    Failure,
    Handler,
    Reach,
    TunnelEnd,
)

__all__ = [
    "HELD_BYTES",
    "Attempt",
    "BodyTooLarge",
    "CallNext",
    "Caller",
    "ClientGone",
    "Downstream",
    "Exchange",
    "Failure",
    "Handler",
    "Hook",
    "Plan",
    "Reach",
    "Request",
    "Response",
    "TunnelEnd",
]
