"""``python -m uvicorn fastapi_app:app --app-dir examples/integrations``"""

from __future__ import annotations

from fastapi import FastAPI
from greeting import Greeter, Visit, build

from nexgate.integrations.fastapi import Inject, install

app = FastAPI()
install(app, container=build(), metrics=True)


@app.get("/hello/{name}")
async def hello(name: str, greeter: Inject[Greeter], visit: Inject[Visit]) -> dict[str, str]:
    return {"said": greeter.greet(name), "path": visit.path}
