"""HTTP on the wire: a strict, sans-IO HTTP/1.1 codec and the header rules of a gateway.

Nothing here does I/O or knows about sockets; ``edge`` and ``upstream`` feed it bytes.
"""

from nexgate.http._body import ChunkedDecoder, encode_chunk, encode_last_chunk
from nexgate.http._fields import (
    Field,
    Headers,
    Kind,
    make_field,
    register_request_id_field,
)
from nexgate.http._forwarded import ForwardedRules, TrustedProxies
from nexgate.http._head import (
    HeadLimits,
    RequestHead,
    ResponseHead,
    parse_request_fields,
    parse_request_head,
    parse_request_line,
    parse_response_head,
    reason_phrase,
    resolve_target,
    split_target,
)

__all__ = [
    "ChunkedDecoder",
    "Field",
    "ForwardedRules",
    "HeadLimits",
    "Headers",
    "Kind",
    "RequestHead",
    "ResponseHead",
    "TrustedProxies",
    "encode_chunk",
    "encode_last_chunk",
    "make_field",
    "parse_request_fields",
    "parse_request_head",
    "parse_request_line",
    "parse_response_head",
    "reason_phrase",
    "register_request_id_field",
    "resolve_target",
    "split_target",
]
