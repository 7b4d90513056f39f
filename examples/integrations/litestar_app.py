"""``python -m uvicorn litestar_app:app --app-dir examples/integrations``"""

from __future__ import annotations

from greeting import Greeter, Visit, build
from litestar import Litestar, get
from litestar.params import FromPath

from nexgate.di import Inject, inject
from nexgate.integrations.litestar import install


@get("/hello/{name:str}")
@inject
async def hello(
    name: FromPath[str], greeter: Inject[Greeter], visit: Inject[Visit]
) -> dict[str, str]:
    return {"said": greeter.greet(name), "path": visit.path}


app = Litestar([hello])
install(app, container=build(), metrics=True)
