"""Chunked transfer coding (RFC 9112 §7.1), read strictly and written plainly.

We never pass chunk framing on: a body is decoded here and framed anew for the other side, so no
disagreement about sizes, extensions or line ends can travel through us.

The reader bounds what is not content. A peer that sends kilobytes of extensions is cut off once the
overhead exceeds what honest senders produce (``_MAX_EXCESS``). Tiny chunks without extensions are
honest (token streams consist of them), so reading them is made cheap instead.
"""

from __future__ import annotations

import re
from typing import Final

from nexgate.errors import Cause, Refused
from nexgate.http._fields import Field, InvalidField, Kind, parse_field_line

__all__ = ["ChunkedDecoder", "encode_chunk", "encode_last_chunk"]

# chunk-size [ chunk-ext ]: 1*HEXDIG bounded so that it fits 63 bits; an extension starts with ';'
# (white space before it is "bad whitespace" that RFC 9112 §7.1.1 lets a recipient accept; we do
# not).
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?").fullmatch
# A size as nearly everyone writes it. Never in excess: eight digits are less than is forgiven.
_PLAIN_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n").match
_MAX_SIZE_LINE: Final = 1024
_MAX_EXCESS: Final = 16 * 1024
_MAX_TRAILER_BYTES: Final = 8 * 1024
_MAX_TRAILERS: Final = 50

_SIZE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)


class ChunkedDecoder:
    """Turns bytes of a chunked body into content. Sans-IO, one message.

    ``feed`` returns the content found and keeps an incomplete rest; after ``done``, ``rest`` holds
    what followed the message and ``trailers`` the trailer fields that may be forwarded. Raises
    ``Refused(cause)``; the connection is then unusable.
    """

    __slots__ = ("_cause", "_excess", "_need", "_state", "_trailer_bytes", "rest", "trailers")

    def __init__(self, cause: Cause) -> None:
        self._cause = cause
        self._state = _SIZE
        self._need = 0
        self._excess = 0
        self._trailer_bytes = 0
        self.rest = b""
        self.trailers: list[Field] = []

    @property
    def done(self) -> bool:
        return self._state == _DONE

    def feed(self, data: bytes) -> bytes:
        """Content in ``data``, as one object: small chunks arrive coalesced."""
        if self.rest:
            data = self.rest + data
            self.rest = b""
        content: list[bytes] = []
        at = 0
        end = len(data)
        state = self._state
        while True:
            if state == _SIZE:
                # The common chunk, whole in the buffer: one step instead of three states.
                m = _PLAIN_SIZE(data, at)
                if m is not None:
                    begin = m.end()
                    stop = begin + int(m[1], 16)
                    if stop > begin and data[stop : stop + 2] == b"\r\n":
                        content.append(data[begin:stop])
                        at = stop + 2
                        if self._excess:
                            self._excess = max(0, self._excess + begin - stop)
                        continue
                eol = data.find(b"\r\n", at, at + _MAX_SIZE_LINE)
                if eol < 0:
                    self._check_partial(data, at, end)
                    break
                m = _SIZE_LINE(data, at, eol)
                if m is None:
                    raise Refused(self._cause, "a chunk size is malformed")
                need = int(m[1], 16)
                # What an honest sender's framing costs is forgiven per chunk; the surplus adds up.
                excess = self._excess + (eol - at + 4) - 16 - 2 * need
                self._excess = excess if excess > 0 else 0
                if excess > _MAX_EXCESS:
                    raise Refused(self._cause, "there is more chunk framing than content")
                at = eol + 2
                if need:
                    self._need = need
                    state = _DATA
                else:
                    state = _TRAILERS
            elif state == _DATA:
                have = end - at
                need = self._need
                if have < need:
                    if have:
                        content.append(data[at:])
                        self._need = need - have
                    at = end
                    break
                content.append(data[at : at + need])
                at += need
                state = _DATA_END
            elif state == _DATA_END:
                crlf = data[at : at + 2]
                if crlf != b"\r\n":
                    if len(crlf) < 2 and b"\r\n".startswith(crlf):
                        break
                    raise Refused(self._cause, "a chunk does not end where its size says")
                at += 2
                state = _SIZE
            elif state == _TRAILERS:
                eol = data.find(b"\r\n", at)
                if eol < 0:
                    if self._trailer_bytes + end - at > _MAX_TRAILER_BYTES:
                        raise Refused(self._cause, "the trailer section is too large")
                    break
                if eol == at:
                    at += 2
                    state = _DONE
                else:
                    self._add_trailer(data[at:eol])
                    at = eol + 2
            else:
                break
        self._state = state
        self.rest = data[at:] if at < end else b""
        if len(content) == 1:
            return content[0]
        return b"".join(content)

    def _check_partial(self, data: bytes, at: int, end: int) -> None:
        """Refuse early what can no longer become a size line."""
        if end - at >= _MAX_SIZE_LINE:
            raise Refused(self._cause, "a chunk size line is too long")
        partial = data[at:end].removesuffix(b"\r")
        if partial and _SIZE_LINE(partial) is None:
            raise Refused(self._cause, "a chunk size is malformed")
        if not partial and end - at == 1 and data[at:end] == b"\r":
            raise Refused(self._cause, "a chunk size is missing")

    def _add_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line) + 2
        if self._trailer_bytes > _MAX_TRAILER_BYTES or len(self.trailers) >= _MAX_TRAILERS:
            raise Refused(self._cause, "the trailer section is too large")
        try:
            field = parse_field_line(line)
        except InvalidField as error:
            raise Refused(self._cause, f"in the trailer section, {error.args[0]}") from None
        # RFC 9110 §6.5.1: fields that frame, route or authenticate must not come late.
        if not field.kind & (Kind.NO_TRAILER | Kind.UNDERSCORE | Kind.SECRET):
            self.trailers.append(field)


def encode_chunk(data: bytes) -> bytes:
    """One chunk; ``data`` must not be empty (that would end the body)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def encode_last_chunk(trailers: list[Field]) -> bytes:
    """The end of a chunked body, with its trailer section."""
    if not trailers:
        return b"0\r\n\r\n"
    return b"0\r\n%b\r\n\r\n" % b"\r\n".join(f.line for f in trailers)
