"""Users over HTTP, on Nexios::

python -m uvicorn app:app --app-dir examples/dependency_injection
nexgate di graph app:container       (in that folder)
"""

from __future__ import annotations

from nexios import NexiosApp
from nexios.http import Request, Response
from services import Cache, Config, Database, Transaction, UserService, database, transaction

from nexgate.di import Container, Inject
from nexgate.integrations.nexios import install

container = Container()
container.register(
    Config, Config(database_url="postgresql://localhost/db", redis_url="redis://localhost")
)
container.register_factory(Database, database)
container.register_factory(Cache, Cache)
container.register_factory(Transaction, transaction, lifetime="scoped")
container.register_factory(UserService, UserService, lifetime="scoped")

app = NexiosApp()
install(app, container=container)


@app.get("/users/{user_id:int}")
async def get_user(
    request: Request, response: Response, user_id: int, users: Inject[UserService]
) -> Response:
    name = users.name_of(user_id)
    if name is None:
        return response.json({"error": "no such user"}, status_code=404)
    return response.json({"id": user_id, "name": name})


@app.post("/users")
async def add_users(request: Request, response: Response, users: Inject[UserService]) -> Response:
    # What is added before one that has no name is taken back: the transaction sees the KeyError.
    added = [users.add(each["name"]) for each in await request.json]
    return response.json({"ids": added}, status_code=201)


@app.get("/cache")
async def cache(request: Request, response: Response) -> Response:
    # As the tutorial does it: by hand, wherever one is.
    return response.json({"hits": container.resolve(Cache).hits})
