"""The body of an answer that the gateway makes itself: RFC 9457, or HTML or text for who asks.

Which one is decided by Accept alone, coarsely: a client that lists ``text/html`` before anything
JSON is a person's browser; one that lists only ``text/plain`` wants text; everyone else gets the
problem, which RFC 9457 §3 allows regardless of Accept.
"""

from __future__ import annotations

import html
import json

from nexgate.errors import Cause

__all__ = ["problem_content"]

_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{status} {title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:16px/1.5 system-ui,sans-serif;margin:15vh auto;max-width:36em;padding:0 1em;
color:#222}}
h1{{font-size:1.4em}}code{{background:#f2f2f2;padding:.1em .3em}}@media(prefers-color-scheme:dark){{
body{{background:#161616;color:#ddd}}code{{background:#2a2a2a}}}}</style></head>
<body><h1>{status} · {title}</h1>{detail}<p>Request <code>{id}</code></p></body></html>
"""


def problem_content(
    cause: Cause, detail: str, request_id: str, accept: list[bytes]
) -> tuple[str, bytes]:
    """The content type and the content for ``cause``."""
    wanted = b",".join(accept).lower()
    if wanted:
        at_html = wanted.find(b"text/html")
        at_json = wanted.find(b"json")
        if at_html >= 0 and (at_json < 0 or at_html < at_json):
            shown = f"<p>{html.escape(detail)}</p>" if detail else ""
            page = _HTML.format(
                status=cause.status,
                title=html.escape(cause.title),
                detail=shown,
                id=html.escape(request_id),
            )
            return "text/html; charset=utf-8", page.encode()
        if at_json < 0 and b"*/*" not in wanted and b"text/plain" in wanted:
            text = f"{cause.status} {cause.title}\n"
            if detail:
                text += f"{detail}\n"
            return "text/plain; charset=utf-8", f"{text}Request {request_id}\n".encode()
    members = {
        "type": cause.type,
        "title": cause.title,
        "status": cause.status,
        "site": cause.site.value,
        "request_id": request_id,
    }
    if detail:
        members["detail"] = detail
    body = json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()
    return "application/problem+json", body
