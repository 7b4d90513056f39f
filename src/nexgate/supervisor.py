"""The parent of the workers: binds, forks, watches, reloads, upgrades. It never serves and never
runs user code.

It is a plain loop around ``select`` without threads, so that forking is safe, and forks everything
that could fail: a *checker* loads a new configuration in a process of its own before any worker
hears of it. What the checker accepted is sent to the workers as text, so they all take the same
version however fast the file changes.

=========  ==============================================================================
SIGTERM    finish what is under way, then end (SIGINT too; a second one does not wait)
SIGHUP     read the file again
SIGUSR1    reopen log files
SIGUSR2    upgrade: check, then replace this program by the one now installed, keeping the
           process id and the listening sockets; old workers drain when new ones are ready
=========  ==============================================================================
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nexgate.config import InvalidConfig, Overrides, Stamp, stamp
from nexgate.errors import ConfigError
from nexgate.observability import configure_logging
from nexgate.state import forget_dead
from nexgate.worker import Frames, frame, worker_main

__all__ = ["run"]

_log = logging.getLogger("nexgate")

_WATCH_SECONDS: Final = 0.4
_SETTLE_SECONDS: Final = 0.1
_STABLE_SECONDS: Final = 5.0
_BACKOFF_MAX: Final = 10.0
_OFFER_SECONDS: Final = 60.0
"""How long workers may take to answer an offered version."""
_CHECK_SECONDS: Final = 30.0
"""How long a configuration may take to load before it is given up."""
_INHERIT: Final = "NEXGATE_INHERIT"


def run(path: Path, overrides: Overrides) -> int:
    """Serve the gateway in ``path`` until told to stop. Returns the exit code."""
    configure_logging(overrides.log_level or "info")
    return _Supervisor(Path(path), overrides).run()


@dataclass(slots=True)
class _Facts:
    """What the supervisor needs to know of a configuration; the checker tells."""

    listen: list[dict[str, Any]]
    workers: int
    reload: bool
    drain: float
    log_level: str
    files: list[str]
    services: int
    routes: int


@dataclass(slots=True, eq=False)
class _Child:
    pid: int
    control: socket.socket
    started: float
    frames: Frames = field(default_factory=Frames)
    is_ready: bool = False
    is_leaving: bool = False
    generation: int = 0
    text: str = ""
    """The version it serves, as far as it said."""


@dataclass(slots=True, eq=False)
class _Offer:
    """A version that the checker accepted and the workers have not answered yet.

    Some faults show only in a worker (an application that does not start). Until a worker has
    taken the version, the one before stays in force, also for workers that are made meanwhile.
    """

    text: str
    facts: _Facts
    why: str
    until: float
    waiting: set[int]
    """Process ids that have not answered."""
    generation: int
    """That of the workers who try it: the present one, or the next when listeners change."""
    takers: int = 0
    refusers: set[int] = field(default_factory=set)


class _Supervisor:
    def __init__(self, path: Path, overrides: Overrides) -> None:
        self.path = path.absolute()
        self.overrides = overrides
        self.text = ""
        self.facts: _Facts | None = None
        self.sockets: dict[str, socket.socket] = {}
        self.urls: dict[str, str] = {}
        self.children: dict[int, _Child] = {}
        self.generation = 0
        self.stopping = False
        self.stop_at = 0.0
        self.restart_at: list[float] = []
        self.backoff = 0.0
        self.seen: dict[str, Stamp] = {}
        self.next_watch = 0.0
        self.is_settling = False
        self.announced = False
        self.offer: _Offer | None = None
        self.reload_again = ""
        """Why to read the file once more when the offer under way is settled."""
        self.signals: list[int] = []
        self.wake_r, self.wake_w = os.pipe()
        for fd in (self.wake_r, self.wake_w):
            os.set_blocking(fd, False)

    # ---------------------------------------------------------------- life

    def run(self) -> int:
        inherited = self._inherit()
        loaded = self._check()
        if loaded is None:
            return 1
        self.text, self.facts = loaded
        configure_logging(self.facts.log_level)
        try:
            self._bind(self.facts)
        except OSError as error:
            _log.error("%s", error.strerror or error)
            return 3
        self._install_signals()
        gc.collect()
        gc.freeze()
        self.generation += 1
        for child in inherited:
            self.children[child.pid] = child
        for _ in range(self.facts.workers):
            self._fork_worker(self.text, self.facts, self.generation)
        self._look_at_files()
        forget_dead()
        try:
            return self._loop()
        finally:
            forget_dead(os.getpid())
            for sock in self.sockets.values():
                self._close_listener(sock)

    def _loop(self) -> int:
        while True:
            self._wait()
            while self.signals:
                self._on_signal(self.signals.pop(0))
            self._reap()
            now = time.monotonic()
            if self.stopping:
                if not self.children:
                    _log.info("stopped")
                    return 0
                if now > self.stop_at:
                    _log.warning("drain took too long: killing %d workers", len(self.children))
                    self._kill_all()
                    return 1
                continue
            due = [at for at in self.restart_at if at <= now]
            self.restart_at = [at for at in self.restart_at if at > now]
            assert self.facts is not None
            for _ in due:
                self._fork_worker(self.text, self.facts, self.generation)
            if self.offer is not None and now > self.offer.until:
                _log.error("workers %s do not answer", sorted(self.offer.waiting))
                self.offer.refusers |= self.offer.waiting
                self.offer.waiting.clear()
                self._settle()
            if not self.announced and not self.children and not self.restart_at:
                return 3
            if self.facts.reload and now >= self.next_watch:
                changed = self._look_at_files()
                if self.is_settling and not changed:
                    self._reload("changed")
                # What was changed a moment ago may still be being written.
                self.is_settling = changed
                self.next_watch = now + (_SETTLE_SECONDS if changed else _WATCH_SECONDS)

    def _wait(self) -> None:
        readers: list[Any] = [self.wake_r]
        readers += [c.control for c in self.children.values() if c.control.fileno() >= 0]
        is_soon = self.stopping or self.restart_at or self.is_settling
        timeout = _SETTLE_SECONDS if is_soon else _WATCH_SECONDS
        try:
            ready, _, _ = select.select(readers, [], [], timeout)
        except InterruptedError:
            return
        for source in ready:
            if source == self.wake_r:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wake_r, 4096)
            else:
                for child in list(self.children.values()):
                    if child.control is source:
                        self._hear(child)

    # ---------------------------------------------------------------- signals

    def _install_signals(self) -> None:
        signal.set_wakeup_fd(self.wake_w, warn_on_full_buffer=False)
        handled = (
            signal.SIGTERM,
            signal.SIGINT,
            signal.SIGHUP,
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGCHLD,
        )
        for number in handled:
            signal.signal(number, lambda number, _: self.signals.append(number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self.stopping:
                _log.warning("stopping at once")
                self._kill_all()
                self.stop_at = 0.0
                return
            self._stop()
        elif number == signal.SIGHUP and not self.stopping:
            self._look_at_files()
            self._reload("SIGHUP")
        elif number == signal.SIGUSR1:
            for child in self.children.values():
                self._tell(child, frame("logs"))
        elif number == signal.SIGUSR2 and not self.stopping:
            self._upgrade()

    def _stop(self) -> None:
        assert self.facts is not None
        _log.info("stopping: finishing what is under way (at most %gs)", self.facts.drain)
        self.stopping = True
        self.stop_at = time.monotonic() + self.facts.drain + 5.0
        self.restart_at.clear()
        for child in self.children.values():
            self._drain(child)
        for sock in self.sockets.values():
            self._close_listener(sock)
        self.sockets.clear()

    def _kill_all(self) -> None:
        for pid in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # ---------------------------------------------------------------- workers

    def _fork_worker(self, text: str, facts: _Facts, generation: int) -> int:
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                sockets = [self.sockets[each["key"]] for each in facts.listen]
                self._become_child(ours, keep=sockets)
                code = worker_main(text, self.path, self.overrides, sockets, theirs)
            except BaseException:
                traceback.print_exc()
            finally:
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
        theirs.close()
        ours.setblocking(False)
        self.children[pid] = _Child(pid, ours, time.monotonic(), generation=generation, text=text)
        return pid

    def _become_child(self, *close: socket.socket, keep: Sequence[socket.socket] = ()) -> None:
        """Undo in a forked process what is the supervisor's alone."""
        signal.set_wakeup_fd(-1)
        for number in (
            signal.SIGTERM,
            signal.SIGINT,
            signal.SIGHUP,
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGCHLD,
        ):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        os.close(self.wake_r)
        os.close(self.wake_w)
        for sock in close:
            sock.close()
        # A listening socket held by someone who never accepts is a trap for clients, and keeps the
        # address taken after the supervisor has given it up.
        for sock in self.sockets.values():
            if sock not in keep:
                sock.close()
        # A sibling's control socket kept open here would hide the supervisor's death from it.
        for child in self.children.values():
            child.control.close()

    def _hear(self, child: _Child) -> None:
        try:
            data = child.control.recv(65536)
        except (BlockingIOError, ConnectionError):
            return
        if not data:
            child.control.close()
            return
        for verb, payload in child.frames.feed(data):
            if verb == "ready":
                child.is_ready = True
                self._on_ready(child)
            elif verb == "reloaded":
                self._answered(child, took=True)
            elif verb == "failed":
                _log.error("worker %d: %s", child.pid, payload)
                self._answered(child, took=False)

    def _on_ready(self, child: _Child) -> None:
        assert self.facts is not None
        if self.offer is not None and child.generation == self.offer.generation > self.generation:
            self._answered(child, took=True)
            return
        current = [c for c in self.children.values() if c.generation == self.generation]
        if not self.announced and sum(c.is_ready for c in current) >= self.facts.workers:
            self._announce(self.facts)

    def _announce(self, facts: _Facts) -> None:
        """All workers of the present generation serve: those before may go."""
        self.announced = True
        for child in self.children.values():
            if child.generation != self.generation and not child.is_leaving:
                self._drain(child)
        where = ", ".join(self.urls[each["key"]] for each in facts.listen)
        _log.info(
            "listening on %s (%s, %s, %s)",
            where,
            _count(facts.workers, "worker"),
            _count(facts.services, "service"),
            _count(facts.routes, "route"),
        )

    def _drain(self, child: _Child) -> None:
        child.is_leaving = True
        self._tell(child, frame("drain"))
        # The frame may not fit a blocked pipe; the signal says the same.
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGTERM)

    def _tell(self, child: _Child, data: bytes) -> None:
        if child.control.fileno() < 0:
            return
        try:
            child.control.setblocking(True)
            child.control.settimeout(5.0)
            child.control.sendall(data)
        except OSError:
            # It may have got half a frame: nothing it hears from here on would be understood. A
            # worker without a supervisor drains, and is replaced.
            _log.warning("worker %d does not listen", child.pid)
            child.control.close()
        else:
            child.control.setblocking(False)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid = 0
                # Workers inherited over an upgrade are children still; none are left now.
                for gone in [p for p in self.children if not _is_alive(p)]:
                    self._on_death(self.children.pop(gone), 0)
            if pid == 0:
                return
            child = self.children.pop(pid, None)
            if child is not None:
                self._on_death(child, status)

    def _on_death(self, child: _Child, status: int) -> None:
        child.control.close()
        if self.stopping or child.is_leaving:
            return
        if self.offer is not None and child.pid in self.offer.waiting:
            self._answered(child, took=False)
        if child.generation != self.generation:
            return
        code = os.waitstatus_to_exitcode(status)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        now = time.monotonic()
        if now - child.started > _STABLE_SECONDS:
            self.backoff = 0.0
        if not self.announced and not child.is_ready and code >= 0:
            # It said why. One that was killed (by whoever frees memory) deserves another try.
            _log.error("worker %d could not start (%s)", child.pid, how)
            return
        wait = self.backoff
        # The first replacement is immediate; a crash loop waits longer each time.
        self.backoff = min(max(self.backoff * 2, 0.25), _BACKOFF_MAX)
        _log.error("worker %d died (%s); replacing it in %gs", child.pid, how, wait)
        self.restart_at.append(now + wait)

    # ---------------------------------------------------------------- configuration

    def _check(self) -> tuple[str, _Facts] | None:
        """Load the file in a process of its own. None (and a loud word) when it is not usable."""
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            _log.error("cannot read %s: %s", self.path, error)
            return None
        read, write = os.pipe()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(read)
                self._become_child()
                with os.fdopen(write, "wb") as answer:
                    answer.write(_examine(text, self.path, self.overrides))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(write)
        answer_bytes = _read_within(read, _CHECK_SECONDS)
        if answer_bytes is None:
            os.kill(pid, signal.SIGKILL)
            _log.error("the check of %s took longer than %gs", self.path.name, _CHECK_SECONDS)
        os.waitpid(pid, 0)
        if answer_bytes is None:
            return None
        try:
            answer = json.loads(answer_bytes)
        except ValueError:
            _log.error("the check of %s died", self.path)
            return None
        if "problem" in answer:
            _log.error("%s cannot be used\n%s", self.path.name, answer["problem"])
            return None
        return text, _Facts(**answer)

    def _reload(self, why: str) -> None:
        """Check the file, then offer it to the workers; ``_settle`` has the outcome."""
        if self.offer is not None:
            self.reload_again = why
            return
        loaded = self._check()
        if loaded is None:
            _log.error("the configuration in use stays as it was")
            return
        text, facts = loaded
        before = self.facts
        assert before is not None
        generation = self.generation
        is_roll = facts.listen != before.listen or facts.workers != before.workers
        if is_roll:
            # Other listeners or another number of workers: a new generation of workers.
            try:
                self._bind(facts)
            except OSError as error:
                _log.error("%s", error.strerror or error)
                _log.error("the configuration in use stays as it was")
                return
            generation += 1
            _log.info("reloading with a new generation of workers")
            tried = {self._fork_worker(text, facts, generation) for _ in range(facts.workers)}
        else:
            tried = {c.pid for c in self.children.values() if c.generation == generation}
        until = time.monotonic() + _OFFER_SECONDS
        self.offer = _Offer(text, facts, why, until, tried, generation)
        if not is_roll:
            for pid in tried:
                self._tell(self.children[pid], frame("reload", text))
        if not tried:
            self._settle()  # no worker is alive: the next ones try it

    def _answered(self, child: _Child, *, took: bool) -> None:
        """A worker took the version on offer, or could not, or died of it."""
        offer = self.offer
        if offer is None or child.pid not in offer.waiting:
            return
        offer.waiting.discard(child.pid)
        if took:
            offer.takers += 1
            child.text = offer.text
        else:
            offer.refusers.add(child.pid)
        if not offer.waiting or (offer.generation > self.generation and not took):
            self._settle()

    def _settle(self) -> None:
        """The version on offer becomes the one in force, or never was."""
        offer = self.offer
        assert offer is not None
        self.offer = None
        is_roll = offer.generation > self.generation
        if offer.refusers and (is_roll or not offer.takers):
            if is_roll:
                for child in self.children.values():
                    if child.generation == offer.generation and not child.is_leaving:
                        self._drain(child)
                self._close_listeners_but(self.facts)
            _log.error("the configuration in use stays as it was")
        else:
            self.text, self.facts = offer.text, offer.facts
            configure_logging(offer.facts.log_level)
            if is_roll:
                self.generation = offer.generation
                alive = sum(c.generation == self.generation for c in self.children.values())
                for _ in range(offer.facts.workers - alive):  # died after it was ready
                    self._fork_worker(self.text, self.facts, self.generation)
                self._close_listeners_but(offer.facts)
                self._announce(offer.facts)
            else:
                _log.info(
                    "reloaded (%s): %s, %s",
                    offer.why,
                    _count(offer.facts.services, "service"),
                    _count(offer.facts.routes, "route"),
                )
            for pid in offer.refusers & self.children.keys():
                # The others could: a fresh one will too.
                self._drain(self.children[pid])
                self._fork_worker(self.text, self.facts, self.generation)
            # Files that were watched before keep what was seen of them: a change that came while
            # the offer was under way must not be lost.
            before = self.seen
            self._look_at_files()
            self.seen |= {name: seen for name, seen in before.items() if name in self.seen}
        for child in self.children.values():
            # Made while the offer was under way, from the version before.
            if child.generation == self.generation and not child.is_leaving:
                if child.text != self.text:
                    child.text = self.text
                    self._tell(child, frame("reload", self.text))
        if self.reload_again:
            why, self.reload_again = self.reload_again, ""
            self._reload(why)

    def _close_listeners_but(self, facts: _Facts | None) -> None:
        wanted = {each["key"] for each in facts.listen} if facts is not None else set()
        for address in [a for a in self.sockets if a not in wanted]:
            self._close_listener(self.sockets.pop(address))

    def _bind(self, facts: _Facts) -> None:
        from nexgate.edge._server import Listener, bind
        from nexgate.edge.config import parse_listen_address

        for each in facts.listen:
            key, address = each["key"], each["address"]
            if key not in self.sockets:
                parsed = parse_listen_address(address)
                try:
                    self.sockets[key] = bind(parsed.host, parsed.port, parsed.path)
                except OSError as error:
                    reason = error.strerror or str(error)
                    raise OSError(error.errno, f"cannot listen on {address}: {reason}") from None
            url = Listener(self.sockets[key]).url
            self.urls[key] = url.replace("http:", "https:", 1) if each["tls"] else url

    def _close_listener(self, sock: socket.socket) -> None:
        if sock.family == socket.AF_UNIX:
            with contextlib.suppress(OSError):
                Path(sock.getsockname()).unlink()
        sock.close()

    def _look_at_files(self) -> bool:
        """Whether a watched file is another than before.

        By ``stat``, twice a second: that works on every file system and survives the symlink swaps
        of mounted configuration maps, which notification does not.
        """
        assert self.facts is not None
        seen: dict[str, Stamp] = {}
        for name in [str(self.path), *self.facts.files]:
            try:
                seen[name] = stamp(name)
            except OSError:
                seen[name] = self.seen.get(name, ())  # between two halves of a replacement
        changed = bool(self.seen) and seen != self.seen
        self.seen = seen
        return changed

    # ---------------------------------------------------------------- upgrade

    def _upgrade(self) -> None:
        """Replace this program in place; see SIGUSR2 above."""
        _log.info("upgrading")
        try:
            checked = subprocess.run(  # noqa: S603  # our own interpreter and arguments
                [sys.executable, "-m", "nexgate", "check", str(self.path)],
                capture_output=True,
                text=True,
                check=False,
                timeout=_CHECK_SECONDS,
            )
        except (subprocess.TimeoutExpired, OSError) as error:
            _log.error("the new version cannot be tried; staying: %s", error)
            return
        if checked.returncode != 0:
            _log.error("the new version refuses the configuration; staying\n%s", checked.stderr)
            return
        os.environ[_INHERIT] = json.dumps(self._heritage())
        signal.pthread_sigmask(
            signal.SIG_BLOCK,
            (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2),
        )
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(  # noqa: S606  # our own interpreter and arguments
            sys.executable, [sys.executable, "-m", "nexgate", *sys.argv[1:]]
        )

    def _heritage(self) -> dict[str, Any]:
        """What the next program needs to know of this one, made inheritable. A worker that has
        ended, and has not been reaped, has no control socket any more.
        """
        speaking = [child for child in self.children.values() if child.control.fileno() >= 0]
        for sock in (*self.sockets.values(), *(child.control for child in speaking)):
            sock.set_inheritable(True)
        return {
            "sockets": {address: sock.fileno() for address, sock in self.sockets.items()},
            "children": {str(child.pid): child.control.fileno() for child in speaking},
            "generation": self.generation,
        }

    def _inherit(self) -> list[_Child]:
        """Listening sockets and workers of the program that we replaced, if we did."""
        said = os.environ.pop(_INHERIT, None)
        if said is None:
            return []
        state = json.loads(said)
        for address, fd in state["sockets"].items():
            sock = socket.socket(fileno=fd)
            sock.set_inheritable(False)
            self.sockets[address] = sock
        self.generation = int(state["generation"])
        children: list[_Child] = []
        for pid, fd in state["children"].items():
            control = socket.socket(fileno=fd)
            control.set_inheritable(False)
            control.setblocking(False)
            children.append(
                _Child(
                    int(pid), control, time.monotonic(), is_ready=True, generation=self.generation
                )
            )
        return children


def _examine(text: str, path: Path, overrides: Overrides) -> bytes:
    """In the checker: compile everything and say what the supervisor must know, or the problem."""
    from nexgate.edge import listener_tls
    from nexgate.gateway import load_source

    try:
        gateway = load_source(text, path)
        gateway.override(overrides)
        config = gateway.config
        made = gateway.build()
        for each in config.gateway.listen:
            listener_tls(each.tls)
    except InvalidConfig as error:
        return json.dumps({"problem": str(error)}).encode()
    except (ConfigError, OSError) as error:
        return json.dumps({"problem": f"  {error}"}).encode()
    section = config.gateway
    files = [
        str(name)
        for each in section.listen
        if each.tls is not None
        for pair in (each.tls, *each.tls.sni.values())
        for name in (pair.certificate, pair.key)
    ]
    files += made.plugins.files
    files += map(str, section.plugin_folders)
    workers = section.workers
    return json.dumps(
        {
            "listen": [
                {
                    # Port 0 is another port each time it is asked for.
                    "key": str(e.parsed) if e.parsed.port else f"{e.parsed}#{at}",
                    "address": str(e.parsed),
                    "tls": e.tls is not None,
                    "trusted": e.trusted,
                    # Files may change under a running listener; rules need a new one.
                    "rules": e.tls.model_dump_json(exclude={"certificate", "key", "sni"})
                    if e.tls is not None
                    else "",
                }
                for at, e in enumerate(section.listen)
            ],
            "workers": _processors() if workers == "auto" else workers,
            "reload": section.reload,
            "drain": section.timeouts.drain,
            "log_level": section.log_level,
            "files": files,
            "services": len(config.services),
            "routes": len(config.routes),
        }
    ).encode()


def _processors() -> int:
    """How many this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_within(fd: int, seconds: float) -> bytes | None:
    """Everything from a pipe until its end; None when that takes longer."""
    until = time.monotonic() + seconds
    parts: list[bytes] = []
    with os.fdopen(fd, "rb", buffering=0) as pipe:
        while True:
            ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                return None
            data = pipe.read(65536)
            if not data:
                return b"".join(parts)
            parts.append(data)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
