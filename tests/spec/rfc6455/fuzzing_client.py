"""Runs the Autobahn cases against a URL and prints what failed, as JSON.

A process of its own, because the suite leaves files open and warnings are errors here.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import kosoku


async def main(url: str, cases: list[str] | None) -> None:
    try:
        results: list[Any] = list(await kosoku.run_fuzzingclient(url, cases, concurrency=4))
    except kosoku.FailureError as error:
        results = list(error.results)
    bad = [r for r in results if r.behavior.value in ("FAILED", "ERROR")]
    closed_badly = [r for r in results if r.behavior_close.value.startswith("FAILED")]
    names = {str(r.case_id) for r in bad + closed_badly}
    print(json.dumps({"count": len(results), "failed": sorted(names)}))


asyncio.run(main(sys.argv[1], sys.argv[2:] or None))
