"""Three programs that know nothing of Nexgate, each with its sidecar, on one machine.

``python examples/sidecar`` makes certificates, starts everything, and shows what the programs
get: ``orders`` may call ``users`` and is known there by name, ``ads`` may not, and nobody is sent
to a program that is ill. It ends by itself. Certificates come from ``trustme``, which is for
examples and tests: ``pip install trustme``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import urllib.error
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path

import trustme

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from processes import free_port  # noqa: E402


class Service:
    """A program, and the sidecar beside it."""

    def __init__(self, name: str, folder: Path, authority: trustme.CA, *options: str) -> None:
        self.name = name
        self.port = free_port()
        self._is_leaving = False
        egress, ingress = free_port(), free_port()
        leaf = authority.issue_cert(name, common_name=name)
        leaf.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        leaf.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        self._program = (str(HERE / "program.py"), name, str(self.port), str(egress))
        self._sidecar = (
            *("-m", "nexgate", "sidecar", "--service", name),
            *("--app", f"http://127.0.0.1:{self.port}", "--egress", f":{egress}"),
            *("--ingress", f"127.0.0.1:{ingress}", "--registry", f"lmdb:{folder}/registry"),
            *("--cert", f"{folder}/{name}.pem", "--key", f"{folder}/{name}.key"),
            *("--ca", f"{folder}/ca.pem", "--log-level", "warning", *options),
        )

    async def __aenter__(self) -> Service:
        self._processes = [
            await asyncio.create_subprocess_exec(sys.executable, *argv)
            for argv in (self._program, self._sidecar)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()
        program, sidecar = self._processes
        await sidecar.wait()  # it needs its program to the end
        if program.returncode is None:
            program.terminate()
        await program.wait()

    def leave(self) -> None:
        """Tell the sidecar to end, and do not wait for it."""
        sidecar = self._processes[1]
        if not self._is_leaving and sidecar.returncode is None:
            sidecar.terminate()  # once: told twice, it does not finish what is under way
        self._is_leaving = True

    async def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        """What the program answers: status and content."""
        return await asyncio.to_thread(self._get, path, method)

    def _get(self, path: str, method: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.port}{path}"
        data = b"" if method == "POST" else None
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data), timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    async def ask(self, other: str) -> int:
        """Let the program call another service, and print what it gets."""
        status, text = await self.get(f"/ask/{other}")
        said = json.loads(text)
        print(f"{self.name} asks {other}: {status} {said.get('detail') or said}", flush=True)
        return status

    async def wait(self, other: str, status: int) -> None:
        """Until calls of another service are answered so."""
        async with asyncio.timeout(30):
            while (await self.get(f"/ask/{other}"))[0] != status:  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.1)


async def main() -> None:
    authority = trustme.CA()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nexgate-")))
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        users, orders, ads = [
            await stack.enter_async_context(Service(name, folder, authority, *options))
            for name, options in (("users", ("--allow", "orders")), ("orders", ()), ("ads", ()))
        ]
        await orders.wait("users", 200)
        await ads.wait("users", 403)
        await orders.ask("users")
        await ads.ask("users")
        await orders.ask("nobody")
        print("users falls ill, and is not sent anybody", flush=True)
        await users.get("/mood/ill", "POST")
        await orders.wait("users", 503)
        await orders.ask("users")
        print("users is well again", flush=True)
        await users.get("/mood/well", "POST")
        await orders.wait("users", 200)
        await orders.ask("users")
        for service in (users, orders, ads):
            service.leave()


if __name__ == "__main__":
    asyncio.run(main())
