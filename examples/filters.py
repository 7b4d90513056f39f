"""Filters: before, after and around.

Run it with `nexgate run examples/filters.py`, then `curl -i localhost:8000/hello`.
"""

import time

from nexgate import Gateway, Request, Response

gateway = Gateway(listen="127.0.0.1:8000")
gateway.route("/hello", respond={"body": "hello\n"})
gateway.route("/admin/*", respond={"body": "the engine room\n"})


@gateway.filter("/admin/*")
def needs_a_key(request: Request) -> Response | None:
    """Before: an answer here ends it."""
    if request.headers.get("x-key") != "letmein":
        return Response.problem(401, detail="Send X-Key.")
    return None


@gateway.filter()
def no_sniffing(request: Request, response: Response) -> None:
    """After: change what goes out."""
    response.headers["X-Content-Type-Options"] = "nosniff"


@gateway.filter()
async def server_timing(request: Request, call_next) -> Response:
    """Around: both."""
    started = time.perf_counter()
    response = await call_next(request)
    taken = (time.perf_counter() - started) * 1000
    response.headers["Server-Timing"] = f"gateway;dur={taken:.1f}"
    return response
