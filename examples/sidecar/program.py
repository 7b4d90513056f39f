"""A program that knows nothing of Nexgate: the standard library's HTTP server and client.

``python program.py NAME PORT EGRESS_PORT`` serves:

====================  ==================================================================
``/slow``             answers after a second
``/health``           200, or 503 after ``POST /mood/ill``
``/ask/SERVICE``      asks ``/`` of a service, through the sidecar, and passes its answer on
``/events``           three events, a quarter of a second apart
an ``Upgrade``        101, then every byte comes back
anything else         JSON: who answered, and who asked
====================  ==================================================================
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME, PORT, EGRESS_PORT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
mood = {"is": "well"}


class Program(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.headers.get("Upgrade"):
            self.echo()
        elif self.path == "/health":
            self.answer(200 if mood["is"] == "well" else 503, {"mood": mood["is"]})
        elif self.path == "/events":
            self.events()
        elif self.path.startswith("/ask/"):
            self.ask(self.path.removeprefix("/ask/"))
        else:
            if self.path == "/slow":
                time.sleep(1.0)
            caller = self.headers.get_all("X-Forwarded-Client-Cert")
            self.answer(200, {"name": NAME, "pid": os.getpid(), "caller": caller})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/mood/"):
            mood["is"] = self.path.removeprefix("/mood/")
        self.answer(200, mood)

    def ask(self, service: str) -> None:
        # All that discovery and resilience take: another port, and the name of the service.
        connection = http.client.HTTPConnection("127.0.0.1", EGRESS_PORT, timeout=10)
        try:
            connection.request("GET", "/", headers={"Host": service})
            answer = connection.getresponse()
            self.answer(answer.status, json.loads(answer.read()))
        except OSError as error:
            self.answer(502, {"detail": f"the sidecar does not answer: {error}"})
        finally:
            connection.close()

    def events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(3):
            event = f"data: {number}\n\n".encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
            time.sleep(0.25)
        self.wfile.write(b"0\r\n\r\n")

    def echo(self) -> None:
        key = self.headers.get("Sec-WebSocket-Key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "websocket")
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        self.close_connection = True
        while data := self.connection.recv(65536):
            self.wfile.write(data)

    def answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Threads end with the program."""

    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    with Server(("127.0.0.1", PORT), Program) as server:
        server.serve_forever()
