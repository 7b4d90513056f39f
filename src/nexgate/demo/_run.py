"""Starts the services and the gateway, shows that they work, and waits."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType

from rich.console import Console

from nexgate.demo._processes import end, free_ports, start, wait_for

__all__ = ["run"]

_TOUR = (
    ("GET", "/users/1", None),
    ("GET", "/users/2", None),
    ("GET", "/products", None),
    ("POST", "/orders", '{"items": ["tea"]}'),
    ("GET", "/orders", None),
    ("DELETE", "/products", None),
    ("GET", "/nowhere", None),
)


def run(port: int = 8000, seconds: float | None = None) -> int:
    """Until Ctrl-C, or for ``seconds``. Returns the exit code."""
    console = Console(highlight=False)
    ports = free_ports(4 if port else 5)
    env = dict(os.environ)
    env.update(
        PORT_GATEWAY=str(port or ports[4]),
        PORT_USERS_1=str(ports[0]),
        PORT_USERS_2=str(ports[1]),
        PORT_PRODUCTS=str(ports[2]),
        PORT_ORDERS=str(ports[3]),
    )
    wanted = [
        ("users", ports[0]),
        ("users", ports[1]),
        ("products", ports[2]),
        ("orders", ports[3]),
    ]
    children: list[subprocess.Popen[bytes]] = []
    stop = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal stop
        stop = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    try:
        for name, service_port in wanted:
            children.append(start("nexgate.demo.services", name, str(service_port), env=env))
        file = Path(__file__).with_name("gateway.toml")
        children.append(start("nexgate", "run", str(file), "--no-reload", env=env))
        address = int(env["PORT_GATEWAY"])
        waited = all(wait_for(p, children) for p in [*ports[:4], address])
        if not waited:
            console.print("[red]The demo could not start.[/red] Is the port in use? Try --port 0.")
            return 3
        _tour(console, address, wanted)
        until = time.monotonic() + seconds if seconds is not None else None
        while not stop and (until is None or time.monotonic() < until):
            if children[-1].poll() is not None:
                console.print("[red]The gateway ended.[/red]")
                return 3
            time.sleep(0.1)
    finally:
        end(children)
    return 0


def _tour(console: Console, port: int, services: list[tuple[str, int]]) -> None:
    base = f"http://localhost:{port}"
    console.print(f"\n[bold]Nexgate is listening on {base}[/bold], in front of")
    for name, service_port in services:
        console.print(f"  {name:<9} http://127.0.0.1:{service_port}")
    console.print("\n  [bold]request           got  from       answer[/bold]")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    for method, path, body in _TOUR:
        connection.request(method, path, body, {"Host": f"localhost:{port}"})
        response = connection.getresponse()
        text = response.read().decode()
        by = response.getheader("x-served-by") or "gateway"
        console.print(f"  {method + ' ' + path:<17} {response.status}  {by:<10} ", end="")
        console.print(text.strip(), markup=False, overflow="ellipsis", no_wrap=True)
    connection.close()
    console.print(
        f"\nTry  [cyan]curl {base}/users/1[/cyan]\n"
        f"     [cyan]curl -i {base}/old/products[/cyan]\n"
        f'     [cyan]curl {base}/orders -d \'{{"items": ["pot"]}}\'[/cyan]\n'
        "Requests appear below. Ctrl-C ends the demo.\n"
    )
