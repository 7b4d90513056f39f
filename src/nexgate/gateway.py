"""The composition root: a configuration, Python functions and applications, put together.

No logic lives here. ``Gateway`` collects what ``gateway.toml`` or Python code says, ``build``
compiles it, ``Runtime`` makes it true, ``Server`` or an ASGI server carries bytes to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from nexgate.config import InvalidConfig, Overrides, placed, problems_of, read_text
from nexgate.edge import AsgiEntry, Server, new_event_loop, open_listener, tune_collector
from nexgate.edge.config import ListenConfig
from nexgate.errors import ConfigError
from nexgate.exchange import Plan
from nexgate.gateway_config import GatewayConfig, load_text
from nexgate.observability import access_log, configure_logging
from nexgate.plugins import Plugin, PluginConfigError, PluginManager, Program, given
from nexgate.plugins.config import plugin_specs
from nexgate.policies.filters import Filter, FilterFunction
from nexgate.routing import Explanation, Subject, Template, explain, normalise
from nexgate.runtime import Build, Runtime, build, configure_guards, path_rules

if TYPE_CHECKING:
    from nexgate.di import Container
    from nexgate.events import EventBus
    from nexgate.plugins import Loaded

__all__ = ["Gateway", "Service", "load", "load_source"]

_log = logging.getLogger("nexgate")

F = TypeVar("F", bound=FilterFunction)

_MOUNTED: Final = "asgi:nexgate.mounted:app{}"


class Service:
    """A name for a set of instances, to route to. Made by ``Gateway.service``."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<Service {self.name}>"


class Gateway:
    """An API gateway. Also an ASGI application: mount it, or run it with ``nexgate run`` on the
    fast edge.

    Keyword arguments are the keys of ``[gateway]``. Everything is validated when the gateway
    starts, or earlier by ``gateway.config``, which raises ``InvalidConfig`` with every problem.

    ``container`` and ``bus`` are what filters and plugins are given and listen to; a gateway
    without them has its own.
    """

    def __init__(
        self, *, container: Container | None = None, bus: EventBus | None = None, **section: Any
    ) -> None:
        self._section = section
        self._program = Program(container, bus)
        self._plugins: dict[str, dict[str, Any]] = {}
        self._given_plugins: dict[str, Loaded] = {}
        self._place: Callable[[PluginConfigError], InvalidConfig] | None = None
        self._services: dict[str, dict[str, Any]] = {}
        self._routes: list[dict[str, Any]] = []
        self._filters: list[Filter] = []
        self._route_filters: dict[int, list[Filter]] = {}
        self._apps: dict[str, Any] = {}
        self._config: GatewayConfig | None = None
        self._entry: AsgiEntry | None = None
        self._runtime: Runtime | None = None

    # ---------------------------------------------------------------- saying what it is

    @classmethod
    def from_config(
        cls,
        config: GatewayConfig,
        place: Callable[[PluginConfigError], InvalidConfig] | None = None,
    ) -> Gateway:
        """``place`` finds the lines of what plugins find wrong in it."""
        gateway = cls()
        gateway._config = config
        gateway._place = place
        return gateway

    def service(self, name: str, *instances: Any, **options: Any) -> Service:
        """A service and its instances: URLs, mappings with ``url`` and ``weight``, or ASGI
        applications.

        ``options`` are the keys of ``[services.NAME]``.
        """
        self._change()
        said = [self._adopt(each) if callable(each) else each for each in instances]
        self._services[name] = {"instances": said, **options}
        return Service(name)

    def _adopt(self, app: Any) -> str:
        """The URL under which an application that was given as an object is known."""
        url = _MOUNTED.format(len(self._apps) + 1)
        self._apps[url] = app
        return url

    def route(
        self,
        path: str,
        service: Service | str | None = None,
        *,
        filters: Sequence[FilterFunction | str] = (),
        **options: Any,
    ) -> None:
        """Send requests for ``path`` to ``service``. ``options`` are the keys of ``[[routes]]``."""
        self._change()
        said: dict[str, Any] = {"path": path, **options}
        if service is not None:
            said["service"] = service.name if isinstance(service, Service) else service
        names = [f for f in filters if isinstance(f, str)]
        if names:
            said["filters"] = names
        own = [Filter(f) for f in filters if not isinstance(f, str)]
        if own:
            self._route_filters[len(self._routes)] = own
        self._routes.append(said)

    def mount(self, prefix: str, app: Any, **options: Any) -> Service:
        """Serve an ASGI application below ``prefix``; ``/`` takes what no other route takes.

        The application sees ``prefix`` as its ``root_path``, so it need not know where it is.
        """
        self._change()
        name = options.pop("name", f"app{len(self._apps) + 1}")
        service = self.service(name, app)
        base = prefix.rstrip("/")
        if base:
            options.setdefault("strip_prefix", True)
        self.route(f"{base}/*" if base else "/*", service, **options)
        return service

    def filter(self, pattern: str = "/*") -> Callable[[F], F]:
        """Decorator: let exchanges on paths that match ``pattern`` pass through a function.

        ``f(request)`` runs before, ``f(request, response)`` after, ``async f(request, call_next)``
        around. Filters run in the order in which they are declared.
        """

        def register(function: F) -> F:
            self._filters.append(Filter(function, Template.parse(pattern)))
            return function

        return register

    def plugin(
        self,
        name: str,
        source: Plugin | str | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Extend the gateway with a plugin: an object, or the keys of ``[plugins.NAME]``. One that
        is given as an object is not reloaded. Raises ``PluginError`` for an object that does not
        fit.
        """
        self._change()
        if isinstance(source, Plugin):
            self._given_plugins[name] = given(name, source, config or {}, **options)
            return
        said = {"source": source} if source is not None else {}
        self._plugins[name] = {**said, "config": dict(config or {}), **options}

    @property
    def container(self) -> Container:
        """What filters and plugins are given by type."""
        return self._program.container

    @property
    def bus(self) -> EventBus:
        """The events of this gateway, those of the gateway itself (``gateway.*``) among them."""
        return self._program.bus

    def _change(self) -> None:
        if self._config is not None and not (self._services or self._routes or self._section):
            raise ConfigError("a gateway made from a configuration cannot be added to")
        self._config = None

    @property
    def config(self) -> GatewayConfig:
        """The validated configuration. Raises ``InvalidConfig``."""
        if self._config is None:
            data = {
                "gateway": self._section,
                "services": self._services,
                "plugins": self._plugins,
                "routes": self._routes,
            }
            try:
                self._config = GatewayConfig.model_validate(data)
            except ValidationError as error:
                raise InvalidConfig(problems_of(error)) from None
        return self._config

    def override(self, overrides: Overrides) -> None:
        """Let the command line's word stand over the configuration. Raises ``InvalidConfig``."""
        try:
            self._config = self.config.with_overrides(overrides)
        except ValidationError as error:
            raise InvalidConfig(problems_of(error)) from None

    def build(self, living: Runtime | None = None) -> Build:
        """Compile, and load plugins; nothing of them is started. Raises ``ConfigError``."""
        config = self.config
        plugins = living.plugins if living is not None else PluginManager(program=self._program)
        is_another = self._program.is_given and plugins.program is not self._program
        try:
            specs = plugin_specs(config.plugins, config.gateway.plugin_folders)
            plan = plugins.load(
                specs, self._given_plugins, program=self._program if is_another else None
            )
        except PluginConfigError as error:
            if self._place is None:
                raise
            raise self._place(error) from None
        try:
            return build(
                config,
                self._filters,
                self._route_filters,
                living.services if living is not None else None,
                plan,
            )
        except BaseException:
            plan.discard()
            raise

    # ---------------------------------------------------------------- asking

    def explain(
        self, method: str, url: str, headers: Sequence[tuple[str, str]] = ()
    ) -> Explanation[Plan]:
        """Which route a request would take, and why no other. Raises ``Refused`` for an unsafe
        path.
        """
        made = self.build()
        configure_guards(made)
        parts = urlsplit(url)
        host = next((v for n, v in headers if n.lower() == "host"), None)
        if host is None:
            host = parts.netloc or "localhost"
        grouped: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            grouped.setdefault(name.lower().encode("latin-1"), []).append(value.encode("latin-1"))
        path = normalise((parts.path or "/").encode("utf-8"), path_rules(self.config))
        bare = host.rpartition("@")[2]
        bare = bare.partition("]")[0] + "]" if bare.startswith("[") else bare.partition(":")[0]
        subject = Subject(
            method=method.encode(),
            host=bare.lower().rstrip(".").encode(),
            path=path,
            query=parts.query.encode(),
            headers=grouped,
        )
        return explain(made.snapshot.table, subject)

    # ---------------------------------------------------------------- running

    async def start(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        default_state: str = "memory",
    ) -> Runtime:
        """Make it live in the running loop, without listening. ``Runtime.aclose`` ends it.

        ``default_state``: where ``gateway.state`` is that the configuration does not name.
        """
        made = self.build()
        runtime = Runtime(
            loop or asyncio.get_running_loop(),
            made,
            self._apps,
            plugins=PluginManager(program=self._program),
            default_state=default_state,
        )
        try:
            await runtime.apply(made)
        except BaseException:
            await runtime.aclose()
            raise
        runtime.edge.exchange_log = access_log(
            self.config.gateway.access_log, self.config.gateway.access_log_format
        )
        return runtime

    @contextlib.asynccontextmanager
    async def serving(self, *listen: str) -> AsyncIterator[Served]:
        """Serve on the fast edge within this loop: for tests and for embedding.

        ``listen`` replaces the configured addresses; port 0 takes a free one. Leaving the block
        drains.
        """
        config = self.config
        listeners = [
            open_listener(each)
            for each in (
                [ListenConfig(address=a) for a in listen] if listen else config.gateway.listen
            )
        ]
        try:
            runtime = await self.start()
        except BaseException:
            for listener in listeners:
                listener.socket.close()
            raise
        server = Server(runtime.edge, listeners)
        await server.start()
        try:
            yield Served(self, runtime, server)
        finally:
            await server.stop(config.gateway.timeouts.drain)
            await runtime.aclose()

    def run(self) -> None:
        """Serve in this process until SIGTERM. ``nexgate run`` adds workers and reloads."""
        configure_logging(self.config.gateway.log_level)

        async def main() -> None:
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop.set)
            async with self.serving() as served:
                tune_collector()
                for url in served.server.urls:
                    _log.info("listening on %s", url)
                await stop.wait()

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI interface."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if self._entry is None:
            await self._enter()
        assert self._entry is not None
        await self._entry(scope, receive, send)

    async def _enter(self) -> None:
        runtime = await self.start()
        if self._entry is None:  # two first requests at once
            self._runtime = runtime
            self._entry = AsgiEntry(runtime.edge)
        else:
            await runtime.aclose()

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        try:
            await self._enter()
        except Exception as error:
            _log.exception("the gateway cannot start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def aclose(self) -> None:
        """End what serving as an ASGI application started."""
        runtime = self._runtime
        self._runtime = self._entry = None
        if runtime is not None:
            await runtime.aclose()

    def __repr__(self) -> str:
        return f"<Gateway services={len(self._services)} routes={len(self._routes)}>"


class Served:
    """A gateway that is listening."""

    def __init__(self, gateway: Gateway, runtime: Runtime, server: Server) -> None:
        self.gateway = gateway
        self.runtime = runtime
        self.server = server
        self._reloading = asyncio.Lock()

    @property
    def url(self) -> str:
        """Of the first listener."""
        return self.server.urls[0]

    @property
    def port(self) -> int:
        return int(self.server.listeners[0].socket.getsockname()[1])

    async def reload(self, gateway: Gateway) -> None:
        """Replace the gateway. Raises ``ConfigError`` and changes nothing when it is not usable."""
        loop = asyncio.get_running_loop()
        # One after the other: a build starts from the services that the one before left.
        async with self._reloading:
            made = await loop.run_in_executor(None, gateway.build, self.runtime)
            self.runtime.apps.update(gateway._apps)
            await self.runtime.apply(made)
            self.gateway = gateway


# -------------------------------------------------------------------- files


def load(path: Path | str, env: Mapping[str, str] | None = None) -> Gateway:
    """A gateway from ``gateway.toml`` or from a Python file that defines ``gateway``.

    Raises ``ConfigError``: ``InvalidConfig`` with every problem of a TOML file.
    """
    path = Path(path)
    return load_source(read_text(path), path, env)


def load_source(text: str, path: Path, env: Mapping[str, str] | None = None) -> Gateway:
    """The same for a text that was read before, so that every worker takes the same version."""
    # "package.module:name" is found beside the file, wherever the program was started.
    folder = str(path.absolute().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if path.suffix != ".py":
        known = os.environ if env is None else env
        config = load_text(text, filename=str(path), env=known)

        def place(error: PluginConfigError) -> InvalidConfig:
            return InvalidConfig(placed(error.findings, text, filename=str(path), env=known))

        return Gateway.from_config(config, place)
    module: dict[str, Any] = {
        "__name__": "gateway",
        "__file__": str(path),
        "__builtins__": __builtins__,
    }
    try:
        # Compiled from the text, never from a cached .pyc that may be older than the file.
        exec(compile(text, str(path), "exec", dont_inherit=True), module)  # noqa: S102  # the user's own program
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
    gateway = module.get("gateway")
    if not isinstance(gateway, Gateway):
        raise ConfigError(f"{path}: there is no Gateway named 'gateway'")
    return gateway
