"""Mails after the response, and reports that survive everything: background tasks on Nexios."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from nexios import NexiosApp

from nexgate.di import Container, Inject
from nexgate.errors import NexgateError
from nexgate.integrations.nexios import install
from nexgate.tasks import BackgroundTasks

sys.path.insert(0, str(Path(__file__).parent))

from jobs import make_report, tasks

mails: list[str] = []
app = NexiosApp()
install(app, container=Container(), tasks=tasks)


async def send_mail(to: str) -> None:
    mails.append(f"Welcome, {to}!")


@app.post("/users/{name}")
async def create_user(
    request: Any, response: Any, name: str, after: Inject[BackgroundTasks]
) -> Any:
    after.add(send_mail, name)  # once the response is out
    return response.json({"name": name, "mails": len(mails)}, status_code=201)


@app.get("/mails")
async def sent(request: Any, response: Any) -> Any:
    return response.json(mails)


@app.post("/reports/{pages:int}")
async def order_report(request: Any, response: Any, pages: int) -> Any:
    job = await make_report.delay(pages)  # stored when this returns
    return response.json({"job": job.id}, status_code=202)


@app.get("/reports/{job}")
async def report(request: Any, response: Any, job: str) -> Any:
    try:
        record = await tasks.job(job).record()
    except NexgateError as error:
        return response.json({"error": str(error)}, status_code=404)
    result = await tasks.job(job).result() if record.state == "done" else None
    return response.json({"state": record.state, "progress": record.progress, "result": result})
