"""The tutorial's program, through HTTP, in a process of its own."""

from __future__ import annotations

import httpx
import pytest
from tests.scenarios.test_integrations import uvicorn

pytest.importorskip("nexios")


async def test_users_are_added_all_or_none_and_found_by_way_of_the_cache() -> None:
    async with (
        uvicorn("app:app", "examples/dependency_injection") as (_, address),
        httpx.AsyncClient(base_url=f"http://{address}") as http,
    ):
        added = await http.post("/users", json=[{"name": "ada"}, {"name": "grace"}])
        assert (added.status_code, added.json()) == (201, {"ids": [1, 2]})
        for _ in range(3):
            assert (await http.get("/users/2")).json() == {"id": 2, "name": "grace"}
        assert (await http.get("/cache")).json() == {"hits": 2}
        assert (await http.get("/users/3")).status_code == 404

        broken = await http.post("/users", json=[{"name": "alan"}, {"nome": "edsger"}])
        assert broken.status_code == 500
        assert (await http.get("/users/3")).status_code == 404  # alan was taken back
        again = await http.post("/users", json=[{"name": "barbara"}])
        assert again.json() == {"ids": [3]}
