"""``python -m uvicorn nexios_app:app --app-dir examples/integrations``"""

from __future__ import annotations

from greeting import Greeter, Visit, build
from nexios import NexiosApp
from nexios.http import Request, Response

from nexgate.di import Inject
from nexgate.integrations.nexios import install

app = NexiosApp()
install(app, container=build(), metrics=True)


@app.get("/hello/{name}")
async def hello(
    request: Request, response: Response, name: str, greeter: Inject[Greeter], visit: Inject[Visit]
) -> Response:
    return response.json({"said": greeter.greet(name), "path": visit.path})
