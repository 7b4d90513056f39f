"""``python -m uvicorn starlette_app:app --app-dir examples/integrations``"""

from __future__ import annotations

from greeting import Greeter, Visit, build
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from nexgate.di import Inject, inject
from nexgate.integrations.starlette import install


@inject
async def hello(request: Request, greeter: Inject[Greeter], visit: Inject[Visit]) -> JSONResponse:
    return JSONResponse({"said": greeter.greet(request.path_params["name"]), "path": visit.path})


app = Starlette(routes=[Route("/hello/{name}", hello)])
install(app, container=build(), metrics=True)
