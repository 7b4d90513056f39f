"""A token that is valid during the benchmark. Written by hand to need no library."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

SECRET = "the benchmark's secret, long enough for HS256"


def bearer() -> str:
    """Return the value of an Authorization field with a JWT (HS256) that lives for a day."""
    header = _encoded({"alg": "HS256", "typ": "JWT"})
    claims = _encoded({"sub": "bench", "exp": int(time.time()) + 86400})
    signature = hmac.digest(SECRET.encode(), f"{header}.{claims}".encode(), hashlib.sha256)
    return f"Bearer {header}.{claims}.{_text(signature)}"


def _encoded(value: dict[str, object]) -> str:
    return _text(json.dumps(value, separators=(",", ":")).encode())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
