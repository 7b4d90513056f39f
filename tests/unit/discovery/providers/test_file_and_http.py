"""A file that people rewrite, and an endpoint that is slow, lossy and wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.discovery.providers.servers import HttpServer, Request, answer

from nexgate.discovery import (
    FileProvider,
    Followed,
    HttpProvider,
    Provider,
    RegistryProvider,
    ServiceInstance,
    ServiceRegistry,
    follow,
)
from nexgate.state import MemoryState
from nexgate.testing import Close, ExpectHead, Hang, Reset, ScriptedUpstream, Send, wait_until


@pytest.fixture
async def following() -> AsyncIterator[Callable[[Provider], Followed]]:
    made: list[Followed] = []

    def start(provider: Provider) -> Followed:
        made.append(follow(provider, pause=0.02, longest_pause=0.05))
        return made[-1]

    yield start
    for followed in made:
        await followed.aclose()


def ids(followed: Followed) -> list[str]:
    return [i.id for i in followed.instances]


def replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


async def test_a_file_is_read_and_read_again_when_it_changes(
    tmp_path: Path, following: Callable[[Provider], Followed]
) -> None:
    path = tmp_path / "instances.toml"
    path.write_text(
        'instances = ["http://A:1", { url = "http://b:2", id = "b", weight = 3, zone = "eu", '
        'tags = ["x"], metadata = { k = "v" } }]'
    )
    followed = following(FileProvider("api", path, interval=0.02))
    await followed.wait_answered(2)
    assert followed.instances == (
        ServiceInstance(
            "b", "api", "http://b:2", weight=3, zone="eu", tags=frozenset("x"), metadata={"k": "v"}
        ),
        ServiceInstance("http://a:1", "api", "http://a:1"),
    )
    replace(path, "[[instances]]\nurl = 'http://c:1'")
    await wait_until(lambda: ids(followed) == ["http://c:1"])
    path.write_text("instances = []")
    await wait_until(lambda: followed.instances == ())
    assert followed.status.state == "connected"


async def test_json_too(tmp_path: Path, following: Callable[[Provider], Followed]) -> None:
    path = tmp_path / "instances.json"
    path.write_text('["http://a:1", {"url": "http://b:1"}]')
    followed = following(FileProvider("api", path, interval=0.02))
    await followed.wait_answered(2)
    assert ids(followed) == ["http://a:1", "http://b:1"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("i.toml", "instances = [\n  'http://a:1',\n  'http://a', oops\n]", "line 3"),
        ("i.toml", "instances = [\n  'http://a:1',\n  'htp://a'\n]", r"line 3: instances\[1\]"),
        ("i.toml", "[[instances]]\nurl = 'http://a'\nwieght = 2", r'line 3: .*mean "weight"'),
        ("i.toml", "[[instances]]\nurl = 'http://a'\nweight = 0", "line 1.*weight"),
        ("i.toml", "servers = []", "line 1: servers is not a key"),
        ("i.toml", "", "has no key instances"),
        ("i.toml", "instances = ['http://a', 'http://A/']", "is there already, at 0"),
        ("i.toml", "instances = [3]", "must be a URL or a table"),
        ("i.json", '{"instances": [\n"http://a",]}', "line 2"),
        ("i.json", '{"instances": {}}', "must be a list"),
        ("i.json", "[" * 100_000, "nested|line"),
        ("i.json", '["http://u:p@a"]', "credentials"),
    ],
)
async def test_a_mistake_keeps_the_last_set_and_says_line_and_reason(
    tmp_path: Path,
    following: Callable[[Provider], Followed],
    caplog: pytest.LogCaptureFixture,
    name: str,
    text: str,
    words: str,
) -> None:
    path = tmp_path / name
    path.write_text(
        '{"instances": ["http://ok"]}' if name == "i.json" else "instances=['http://ok']"
    )
    good = path.read_text()
    followed = following(FileProvider("api", path, interval=0.02))
    await followed.wait_answered(2)
    replace(path, text)
    await wait_until(lambda: followed.status.state == "stale")
    import re

    assert re.search(words, followed.status.error or ""), followed.status.error
    assert ids(followed) == ["http://ok"]
    await asyncio.sleep(0.1)
    assert caplog.text.count("is not used as it is") == 1
    replace(path, good + " ")
    await wait_until(lambda: followed.status.state == "connected")
    assert followed.status.sets == 1


async def test_a_file_may_come_later_go_and_be_unreadable(
    tmp_path: Path, following: Callable[[Provider], Followed]
) -> None:
    path = tmp_path / "instances.toml"
    followed = following(FileProvider("api", path, interval=0.02))
    await wait_until(lambda: "No such file" in (followed.status.error or ""))
    assert followed.status.state == "connecting"
    path.write_text("instances = ['http://a']")
    await wait_until(lambda: ids(followed) == ["http://a"])
    path.unlink()
    await wait_until(lambda: followed.status.state == "stale")
    path.mkdir()
    await asyncio.sleep(0.1)
    path.rmdir()
    path.write_bytes(b"\xff\xfe")
    await wait_until(lambda: "decode" in (followed.status.error or ""))
    assert ids(followed) == ["http://a"]
    path.write_bytes(b"\xef\xbb\xbfinstances = ['http://b']\r\n")
    await wait_until(lambda: ids(followed) == ["http://b"])


# --- HTTP -----------------------------------------------------------------------------------------


class Endpoint:
    """A document with an ETag."""

    def __init__(self) -> None:
        self.document: object = {"instances": ["http://a:1"]}
        self.status = 200
        self.delay = 0.0

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.delay)
        tag = f'"{abs(hash(json.dumps(self.document, default=str)))}"'
        if request.fields.get("if-none-match") == tag and self.status == 200:
            await answer(writer, b"", status=304)
        else:
            await answer(writer, self.document, status=self.status, fields={"ETag": tag})


async def test_a_document_is_asked_for_again_and_unchanged_ones_are_not_sent(
    following: Callable[[Provider], Followed],
) -> None:
    endpoint = Endpoint()
    async with HttpServer(endpoint) as server:
        provider = HttpProvider(
            "api", f"{server.url}/i?x=1", interval=0.02, fields={"Authorization": "Bearer t"}
        )
        followed = following(provider)
        await wait_until(lambda: len(server.requests) >= 3)
        assert ids(followed) == ["http://a:1"]
        assert server.requests[0].target == "/i?x=1"
        assert server.requests[0].fields["authorization"] == "Bearer t"
        assert "if-none-match" not in server.requests[0].fields
        assert "if-none-match" in server.requests[2].fields
        endpoint.document = [{"url": "http://b:1", "unknown": 1, "weight": 2}]
        await wait_until(lambda: ids(followed) == ["http://b:1"])
        endpoint.document = []
        await wait_until(lambda: followed.instances == ())
        assert followed.status.state == "connected"


@pytest.mark.parametrize(
    ("document", "status", "words"),
    [
        ([], 500, "status 500"),
        ([], 302, "status 302"),
        ([], 204, "status 204"),
        (b"<html>", 200, "not JSON"),
        (b"[" * 100_000, 200, "not JSON"),
        ({"items": []}, 200, "no key instances"),
        (["http://b", {"url": 3}], 200, r"\[1\] must be a URL"),
        (["http://b", "asgi:os:system"], 200, "asgi:os:system is not http"),
        (["unix:/run/docker.sock"], 200, "is not http"),
        ("http://b", 200, "must be a list"),
    ],
)
async def test_what_is_no_document_keeps_the_last_set(
    following: Callable[[Provider], Followed], document: Any, status: int, words: str
) -> None:
    endpoint = Endpoint()
    async with HttpServer(endpoint) as server:
        followed = following(HttpProvider("api", server.url, interval=0.02))
        await followed.wait_answered(2)
        before = endpoint.document
        endpoint.document, endpoint.status = document, status
        await wait_until(lambda: followed.status.state == "stale")
        import re

        assert re.search(words, followed.status.error or ""), followed.status.error
        assert ids(followed) == ["http://a:1"]
        endpoint.document, endpoint.status = before, 200
        await wait_until(lambda: followed.status.state == "connected")
        assert followed.status.sets == 1


async def test_a_slow_or_broken_endpoint_is_stale_not_empty(
    following: Callable[[Provider], Followed],
) -> None:
    endpoint = Endpoint()
    async with HttpServer(endpoint) as server:
        followed = following(HttpProvider("api", server.url, interval=0.02, timeout=0.1))
        await followed.wait_answered(2)
        endpoint.delay = 5.0
        await wait_until(lambda: followed.status.state == "stale")
        assert "no answer within" in (followed.status.error or "")
        endpoint.delay = 0.0
        await wait_until(lambda: followed.status.state == "connected")
    await wait_until(lambda: followed.status.state == "stale")
    assert ids(followed) == ["http://a:1"]
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n"
    for script in (
        [ExpectHead(), Send(head + b'["http://x'), Close()],
        [ExpectHead(), Send(head + b'["http://x'), Hang()],
        [ExpectHead(), Reset()],
    ):
        async with ScriptedUpstream(script) as broken:
            other = following(HttpProvider("api", broken.url, interval=0.02, timeout=0.1))
            await wait_until(lambda other=other: other.status.restarts >= 1)
            assert other.status.state == "connecting"
            await other.aclose()


@pytest.mark.parametrize(
    "url", ["", "h:1/x", "ftp://h", "http://u:p@h/x", "http://h/#x", "http://"]
)
def test_a_url_of_a_document_is_checked(url: str) -> None:
    with pytest.raises(ValueError):
        HttpProvider("api", url)


async def test_a_file_that_is_being_written_is_not_read_by_halves(
    tmp_path: Path, following: Callable[[Provider], Followed]
) -> None:
    path = tmp_path / "instances.toml"
    path.write_text("".join(f"[[instances]]\nurl = 'http://h:{n}'\n" for n in range(1, 11)))
    followed = following(FileProvider("api", path, interval=0.1))
    await followed.wait_answered(2)
    with path.open("w") as file:
        for n in range(1, 11):
            file.write(f"[[instances]]\nurl = 'http://h:{n}'\nweight = 2\n")
            file.flush()
            await asyncio.sleep(0.05)
            assert len(followed.instances) == 10
    await wait_until(lambda: followed.instances[0].weight == 2)
    assert followed.status.sets == 2


# --- registry -------------------------------------------------------------------------------------


async def test_a_registry_and_a_state_are_providers(
    following: Callable[[Provider], Followed],
) -> None:
    state = MemoryState()
    async with ServiceRegistry(state) as registry:
        one = following(RegistryProvider(registry, "api"))
        two = following(RegistryProvider(state, "api"))
        await one.wait_answered(1)
        await two.wait_answered(1)
        await registry.register("api", ServiceInstance("1", "api", "http://h:1"))
        await wait_until(lambda: ids(one) == ids(two) == ["1"])
        await registry.unregister("api", "1")
        await wait_until(lambda: ids(one) == ids(two) == [])
        assert one.status.state == two.status.state == "connected"
        await two.aclose()
        assert state.statistics().watchers == 1


@pytest.mark.parametrize(
    ("scope", "taken"),
    [
        ("process", ["asgi:a:b", "http://h:1", "unix:/run/x"]),
        ("machine", ["http://h:1", "unix:/run/x"]),
        ("machines", ["http://h:1"]),
    ],
)
async def test_others_cannot_name_our_code_and_our_sockets(
    following: Callable[[Provider], Followed],
    scope: Any,
    taken: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Shared(MemoryState):
        __slots__ = ()

    Shared.scope = scope
    state = Shared()
    async with ServiceRegistry(state) as registry:
        for url in ("asgi:a:b", "http://h:1", "unix:/run/x"):
            await registry.register("api", ServiceInstance(url, "api", url))
        for source in (registry, state):
            followed = following(RegistryProvider(source, "api"))
            await followed.wait_answered(1)
            assert ids(followed) == taken
    assert caplog.text.count("is not taken") == 2 * (3 - len(taken))
