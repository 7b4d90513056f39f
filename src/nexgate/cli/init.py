"""``nexgate init``: a first configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "  [cyan]nexgate init[/cyan]            writes gateway.toml\n\n"
    "  [cyan]nexgate init --python api[/cyan]   writes api/gateway.py\n\n"
    "A file that is there is never overwritten."
)

TOML: Final = """\
# The configuration of a Nexgate gateway.
#
#   nexgate check                   every problem in this file, with line and hint
#   nexgate run                     serve; changes of this file are taken over while it runs
#   nexgate explain GET /users/42   which route a request gets, and why

[gateway]
listen = "127.0.0.1:8000"           # to be reachable from outside: "0.0.0.0:8000"
# workers = "auto"                  # one process for each processor
# access_log = "stdout"
# trusted_proxies = ["10.0.0.0/8"]  # believe what these say about the client

# A service is a set of interchangeable instances.
[services.users]
instances = ["http://127.0.0.1:9001"]
# instances = [
#     "http://127.0.0.1:9001",
#     { url = "http://127.0.0.1:9002", weight = 2 },   # gets twice as much
#     "unix:/run/users.sock",
#     "asgi:package.module:app",                       # an ASGI app, in this process
# ]
# balancer = "least-requests"       # or "round-robin", "ewma", "consistent-hash", …
# health = { path = "/health", interval = "5s" }
# timeout = { connect = "1s", total = "10s" }

# A route says which requests it is for, and what is done with them. The more specific route wins;
# the order in this file does not matter.
[[routes]]
name = "user"
path = "/users/{user_id:int}"
methods = ["GET"]
service = "users"

[[routes]]
name = "users"
path = "/users/*"
service = "users"
# strip_prefix = true               # the service sees /42 instead of /users/42
# request_headers = { set = { Authorization = "Bearer ${USERS_TOKEN}" } }

[[routes]]
name = "alive"
path = "/alive"
respond = { body = "yes\\n" }
"""

PYTHON: Final = '''\
"""A Nexgate gateway, in Python.

    nexgate check gateway.py                   is it usable?
    nexgate run gateway.py                     serve
    nexgate explain GET /users/42 -f gateway.py
"""

from nexgate import Gateway, Response

gateway = Gateway()

# A service is a set of interchangeable instances.
users = gateway.service("users", "http://127.0.0.1:9001")

# A route says which requests it is for, and what is done with them. The more specific route wins.
gateway.route("/users/{user_id:int}", users, methods=["GET"])
gateway.route("/users/*", users)


# Every exchange whose path matches passes through this. It may be "async def", too.
@gateway.filter("/users/*")
def no_tracing(request):
    if request.method == "TRACE":
        return Response(405)
'''


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(epilog=_EPILOG)(init)


def init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", file_okay=False, help="Where to write. Default: here.")
    ] = Path(),
    python: Annotated[
        bool, typer.Option("--python", help="Write gateway.py instead of gateway.toml.")
    ] = False,
) -> None:
    """Write a commented configuration to begin with."""
    from nexgate.cli._console import stdout

    path = directory / ("gateway.py" if python else "gateway.toml")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        # "x": whoever created the file between our look and our write keeps it.
        with path.open("x", encoding="utf-8") as file:
            file.write(PYTHON if python else TOML)
    except FileExistsError:
        raise typer.BadParameter(
            f"{path} is there already and stays as it is", param_hint="DIR"
        ) from None
    console = stdout()
    console.print(f"wrote {path}", markup=False, soft_wrap=True)
    where = "" if directory == Path() else f" {path}"
    console.print(
        f"next: nexgate check{where} and nexgate run{where}", markup=False, soft_wrap=True
    )
