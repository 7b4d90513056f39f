"""One case: a client, an instance, both perhaps malicious, and what must hold whatever they do."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.fuzz.mutations import pieces, response, traffic
from tests.fuzz.wire import (
    Seen,
    Transport,
    Unclear,
    World,
    count_clear_requests,
    read_requests,
    read_responses,
)

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: origin\r\n\r\nok"
OURS = {b"500", b"502", b"503", b"504"}
"""Statuses that a client whose service behaves must never see, whatever it sends."""


class Service:
    """Answers what is forwarded, after the judge has read it."""

    def __init__(self, world: World, random: Random | None, *, is_good: bool) -> None:
        self.world = world
        self.random = random
        self.is_good = is_good
        self.seen: list[Seen] = []
        self._read: dict[Any, int] = {}
        self._tunnels: set[Any] = set()

    def serve(self) -> bool:
        """Whether anything was done."""
        did = False
        for connection in list(self.world.instance.made):
            transport: Any = connection.transport
            if connection in self._tunnels:
                continue
            sent = transport.sent()
            at = self._read.get(connection, 0)
            if len(sent) == at:
                continue
            found = read_requests(sent[at:])
            if len(found) != 1:
                raise Unclear(f"{len(found)} requests where one was due: {sent[at:]!r}")
            request = found[0]
            if not request.is_complete and not (
                self.random is not None and self.random.random() < 0.1
            ):
                continue
            self.seen.append(request)
            self._read[connection] = len(sent)
            did = True
            if not request.is_complete:
                self._tunnels.add(connection)  # answered early: what follows is the rest of it
            self._answer(connection, transport, request)
        return did

    def _answer(self, connection: Any, transport: Transport, request: Seen) -> None:
        random = self.random
        if request.values(b"upgrade") and (random is None or random.random() < 0.8):
            self._tunnels.add(connection)
            upgrade = request.values(b"upgrade")[0].split(b",")[0]
            self._feed(
                connection,
                transport,
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\nhi"
                % upgrade,
            )
            return
        if random is None or self.is_good:
            good = GOOD if request.first != b"HEAD" else GOOD[:-2]
            self._feed(connection, transport, good)
            return
        if random.random() < 0.1:
            transport.lose(ConnectionResetError() if random.random() < 0.5 else None)
            self.world.loop.run()
            return
        for piece in pieces(random, response(random, random.random() < 0.7)):
            self._feed(connection, transport, piece)
        if random.random() < 0.3 and not transport.is_closed:
            if not connection.eof_received():
                transport.close()
            self.world.loop.run()

    def _feed(self, connection: Any, transport: Transport, data: bytes) -> None:
        if not transport.is_closed:
            connection.data_received(data)
            self.world.loop.run()


def run_bytes(
    world: World, arriving: list[bytes], service: Service, random: Random | None = None
) -> tuple[bytes, list[Seen]]:
    """A client sends ``arriving`` and goes. Returns what it got, and that as the judge reads it."""
    client, transport = world.connect()
    waiting = list(arriving)
    while waiting and not transport.is_closed:
        if transport.is_paused:
            if not service.serve():
                break
            continue
        client.data_received(waiting.pop(0))
        world.loop.run()
        while service.serve():
            pass
        if random is not None:
            kind = random.random()
            if kind < 0.02 and not transport.is_lost:
                client.pause_writing()
                while service.serve():
                    pass
                if not transport.is_lost:
                    client.resume_writing()
                world.loop.run()
            elif kind < 0.03:
                world.loop.advance(random.choice((0.2, 15.0, 40.0, 100.0)))
    while service.serve():
        pass
    if random is not None and random.random() < 0.1 and not transport.is_closed:
        if not client.eof_received():
            transport.close()
        world.loop.run()
        while service.serve():
            pass
    sent = transport.sent()
    methods = list(world.methods)
    if client.exchange is not None:
        methods.append(client.exchange.method)
    answers = read_responses(sent, methods)
    for answer in answers[:-1]:
        if not answer.is_complete or answer.ends_with_connection:
            raise Unclear("an answer follows one that has not ended")
    if len([a for a in answers if a.first != b"101"]) > len(methods) + 1:
        raise Unclear("more answers than requests")
    if answers and not transport.is_closed and client.exchange is None and not client.tunnel:
        if not answers[-1].is_complete:
            raise Unclear("the last answer is cut and the connection goes on")
    if service.is_good:
        whole = sum(request.is_complete for request in service.seen)
        clear = count_clear_requests(b"".join(arriving))
        if whole > clear:
            raise Unclear(f"{whole} requests were made of {clear}")
        for answer in answers:
            if answer.first in OURS:
                raise Unclear(f"the client's fault, but {answer.line!r}")
    transport.lose()
    world.loop.run()
    world.check_nothing_is_left()
    return sent, answers


def run_case(world: World, seed: int) -> None:
    """The case of this number. Raises what is wrong with its bytes in the message."""
    random = Random(seed)
    arriving = pieces(random, traffic(random))
    service = Service(world, random, is_good=random.random() < 0.6)
    try:
        run_bytes(world, arriving, service, random)
        if random.random() < 0.05:
            world.loop.advance(200.0)  # whatever is idle goes
            assert not world.instance.connections
    except Exception as error:
        raise AssertionError(f"case {seed}: {error!r}\nclient: {arriving!r}") from error
    finally:
        world.reset()
