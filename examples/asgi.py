"""An ASGI application on the gateway's own edge.

Run it with `nexgate run examples/asgi.py`, then `curl localhost:8000/app`.
"""

from nexgate import Gateway


async def app(scope, receive, send):
    """Any ASGI application: Starlette, FastAPI, Nexios, Litestar, or three lines of your own."""
    if scope["type"] != "http":
        return
    body = f"{scope['method']} {scope['path']} from {scope['client'][0]}\n".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


gateway = Gateway(listen="127.0.0.1:8000")
gateway.mount("/app", app)
gateway.service("elsewhere", "http://127.0.0.1:9001")
gateway.route("/api/*", "elsewhere", strip_prefix=True)
