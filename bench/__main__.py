"""``python -m bench [--scenarios a,b] [--peers x,y] [--seconds 4] [--rounds 3] [--quick]``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from rich.console import Console

import nexgate
from bench import equal, machine, report
from bench.arena import Arena, Measurement
from bench.load import missing_tools
from bench.origin import running_origin
from bench.peers import PEERS, Peer
from bench.peers.nginx import Nginx
from bench.scenarios import SCENARIOS


def main() -> int:
    options = _parse()
    # So that what was started is ended, also when the benchmark is told to stop.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    console = Console()
    if problem := missing_tools():
        console.print(problem)
        return 2
    peers, absent = _choose(options.peers)
    for name in absent:
        console.print(f"[yellow]{name} is not installed and stays out of this run.")
    if machine.PROXY_CORE == machine.LOAD_CORE:
        console.print("[yellow]One core only: proxy, load and upstream disturb each other.")
    else:
        os.sched_setaffinity(0, {machine.LOAD_CORE})
    description = machine.describe()
    console.print(description, highlight=False)

    results: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx's worker is another user when root starts it
        with running_origin(folder / "origin") as origin, console.status("") as status:
            arena = Arena(
                folder=folder,
                origin=origin,
                peers=peers,
                seconds=options.seconds,
                rounds=options.rounds,
                say=status.update,
            )
            status.update("comparing what the peers send upstream")
            work = equal.compare_work(arena)
            for one in work:
                console.print(_described(one), highlight=False, markup=False)
            for scenario in options.scenarios:
                results += SCENARIOS[scenario][1](arena, results)

    run = report.Run(
        when=datetime.now(UTC),
        machine=description,
        command=_command(),
        versions={peer.name: peer.version() for peer in peers},
        seconds=options.seconds,
        rounds=options.rounds,
        revision=machine.revision(Path(nexgate.__file__).parent),
        origin=f"nginx {Nginx.version()}" if Nginx.binary() else "asyncio",
        work=work,
        results=results,
    )
    report.print_run(run, console)
    console.print(f"Written: {report.write_json(run).relative_to(report.ROOT)}")
    if options.update_docs:
        report.update_page(run)
        if not report.draw(run):
            console.print("[yellow]No picture: matplotlib is missing or nothing can be drawn.")
    return 0


def _leave(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=sys.modules["bench"].__doc__
    )
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="default: all")
    parser.add_argument("--peers", default=",".join(PEERS), help="default: all installed")
    parser.add_argument("--seconds", type=float, default=4.0, help="per measurement (default 4)")
    parser.add_argument("--rounds", type=int, default=3, help="medians of so many (default 3)")
    parser.add_argument("--quick", action="store_true", help="one round of a second: for a look")
    parser.add_argument(
        "--update-docs",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="rewrite the page's tables and picture (default: unless --quick or a selection)",
    )
    options = parser.parse_args()
    if options.update_docs is None:
        is_whole = options.scenarios == ",".join(SCENARIOS) and options.peers == ",".join(PEERS)
        options.update_docs = is_whole and not options.quick
    if options.quick:
        options.seconds, options.rounds = 1.0, 1
    options.scenarios = options.scenarios.split(",")
    options.peers = options.peers.split(",")
    for kind, known in (("scenarios", SCENARIOS), ("peers", PEERS)):
        if unknown := set(getattr(options, kind)) - set(known):
            parser.error(f"unknown {kind}: {', '.join(unknown)}; known: {', '.join(known)}")
    return options


def _choose(names: list[str]) -> tuple[list[type[Peer]], list[str]]:
    installed = [PEERS[name] for name in names if PEERS[name].binary()]
    return installed, [name for name in names if not PEERS[name].binary()]


def _command() -> str:
    return " ".join(["python -m bench", *sys.argv[1:]])


def _described(work: equal.Work) -> str:
    if work.failure:
        return f"  {work.peer}: cannot take part: {work.failure}"
    problems = [f"lacks {name}" for name in work.missing]
    if not work.is_reusing:
        problems.append("does not reuse its upstream connection")
    return f"  {work.peer}: {'; '.join(problems) or 'does the same work'}"


if __name__ == "__main__":
    sys.exit(main())
