"""The table, the JSON file, the picture and the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.arena import Measurement
from bench.equal import Work
from bench.scenarios import SCENARIOS
from bench.verdicts import TIMES, Verdict, verdicts

ROOT = Path(__file__).parents[1]
OUT = ROOT / "bench" / "out"
PAGE = ROOT / "docs" / "explanation" / "performance.md"
PICTURE = PAGE.with_suffix(".png")
BEGIN, END = "<!-- bench: begin -->\n", "<!-- bench: end -->\n"

# (key, heading, digits), in the order of the columns; a scenario shows those that it has.
COLUMNS = [
    ("cpu_us", "CPU µs", 1),
    ("core_percent", "of core %", 0),
    ("rps", "per second", 0),
    ("p50_ms", "p50 ms", 2),
    ("p99_ms", "p99 ms", 2),
    ("first_kib", "KiB, first", 1),
    ("idle_kib", "KiB, more", 1),
    ("growth_mib", "growth MiB", 1),
    ("mib_per_s", "MiB/s", 0),
    ("cpu_s", "CPU s", 2),
    ("rss_mib", "RSS MiB", 0),
    ("pick_us", "µs per pick", 2),
    ("extra_us", "µs added", 2),
]
QUIET_PERCENT = 80  # of a core, in the scenario "small"
# What the ratios compare; the first that a scenario has.
COMPARED = ["cpu_us", "idle_kib", "cpu_s", "p99_ms"]
BASELINES = ["nginx", "envoy", "aiohttp"]


@dataclass(frozen=True, slots=True)
class Run:
    """Everything about a run that a reader needs in order to judge or repeat it."""

    when: datetime
    machine: str
    command: str
    versions: dict[str, str]
    seconds: float
    rounds: int
    origin: str
    revision: str
    """The commit that was measured, and whether anything was changed on top of it."""
    work: list[Work]
    results: list[Measurement]


@dataclass(frozen=True, slots=True)
class Sheet:
    """One scenario as rows of text."""

    title: str
    heads: list[str]
    rows: list[list[str]]
    notes: list[str]


def sheets(results: Sequence[Measurement]) -> list[Sheet]:
    """Lay the results out, for the terminal and the page alike."""
    pages: list[Sheet] = []
    for scenario, (title, _) in SCENARIOS.items():
        members = [m for m in results if m.scenario == scenario]
        good = [m for m in members if not m.failure]
        if not members:
            continue
        columns = [c for c in COLUMNS if any(c[0] in m.metrics for m in good)]
        compared = next((c for c in COMPARED if any(c in m.metrics for m in good)), "")
        rate = next((m.metrics["rate"] for m in good if "rate" in m.metrics), None)
        # Tail latency is the noisiest of all; its median alone would look surer than it is.
        has_spread = rate is not None
        baselines = [b for b in BASELINES if any(m.peer == b for m in good)]
        rows = [
            [
                " ".join(filter(None, [m.peer, m.variant])),
                *(f"{m.metrics[key]:,.{digits}f}" for key, _, digits in columns),
                *([_spread(m, "p99_ms")] if has_spread else []),
                *(_ratio(m, good, compared, baseline) for baseline in baselines),
            ]
            for m in good
        ]
        pages.append(
            Sheet(
                title=title if rate is None else f"{title}: {rate:,.0f} requests/s for everyone",
                heads=[
                    "",
                    *(head for _, head, _ in columns),
                    *(["p99 of the rounds"] if has_spread else []),
                    *(f"{TIMES} {b}" for b in baselines),
                ],
                rows=rows,
                notes=[f"{m.peer} {m.variant}: {m.failure}" for m in members if m.failure],
            )
        )
    return pages


def _spread(one: Measurement, metric: str) -> str:
    values = [r[metric] for r in one.rounds]
    return f"{min(values):.2f} to {max(values):.2f}"


def _ratio(one: Measurement, all_of_them: list[Measurement], metric: str, baseline: str) -> str:
    for other in all_of_them:
        is_same = other.variant == one.variant or other.variant == "bare"
        if other.peer == baseline and is_same and other.metrics.get(metric, 0) > 0:
            return f"{one.metrics[metric] / other.metrics[metric]:.2f}"
    return "-"


def disturbance(results: Sequence[Measurement]) -> str | None:
    """Say so if other work kept the machine busy: its core share shows it, whoever is ahead.

    Under a load that waits for nothing a proxy fills its core, unless the load generator or the
    proxy itself has to share with strangers.
    """
    shares = {
        m.peer: m.metrics["core_percent"]
        for m in results
        if m.scenario == "small" and "core_percent" in m.metrics
    }
    lowest = min(shares, key=lambda peer: shares[peer], default=None)
    if lowest is None or shares[lowest] >= QUIET_PERCENT:
        return None
    return (
        f"**This run was disturbed**: under full load {lowest} kept only {shares[lowest]:.0f} % of "
        "its core busy. Latencies and rates say nothing here, and CPU per request is too high for "
        "everyone. Repeat it on a quiet machine."
    )


def print_run(run: Run, console: Console) -> None:
    """Print every sheet and the verdicts."""
    if warning := disturbance(run.results):
        console.print(warning.replace("**", ""), style="yellow", highlight=False)
    for sheet in sheets(run.results):
        table = Table(title=sheet.title, title_justify="left")
        for number, head in enumerate(sheet.heads):
            table.add_column(head, justify="right" if number else "left")
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)
        for note in sheet.notes:
            console.print(f"[yellow]{note}", markup=True, highlight=False)
    table = Table(title="Numbers to hold", title_justify="left")
    for head in ("promise", "limit", "measured", ""):
        table.add_column(head)
    for verdict in verdicts(run.results):
        table.add_row(*_verdict_row(verdict))
    console.print(table)


def _verdict_row(verdict: Verdict) -> list[str]:
    value = "-" if verdict.value is None else f"{verdict.value:.2f}{verdict.unit}"
    return [verdict.promise, f"≤ {verdict.limit:g}{verdict.unit}", value, verdict.word]


def write_json(run: Run) -> Path:
    """Write everything, every round included."""
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{run.when:%Y%m%dT%H%M%SZ}.json"
    content = {
        **asdict(run),
        "when": run.when.isoformat(timespec="seconds"),
        "verdicts": [{**asdict(v), "word": v.word} for v in verdicts(run.results)],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    (OUT / "latest.json").write_text(text, encoding="utf-8")
    return path


def update_page(run: Run) -> None:
    """Replace what is between the markers of the page."""
    lines = [
        f"Measured {run.when.astimezone(UTC):%Y-%m-%d %H:%M} UTC on {run.machine}.",
        f"Command: `{run.command}` ({run.rounds} rounds of {run.seconds:g} s, medians).",
        "Versions: " + ", ".join(f"{name} {v}" for name, v in run.versions.items()) + ".",
        f"Upstream: {run.origin}. Source: {run.revision}.",
        *(["", warning] if (warning := disturbance(run.results)) else []),
        "",
        "### Numbers to hold",
        "",
        *_markdown(["promise", "limit", "measured", "verdict"], _verdict_rows(run)),
        "",
    ]
    for sheet in sheets(run.results):
        lines += [f"### {sheet.title}", ""]
        if sheet.rows:
            lines += [*_markdown(sheet.heads, sheet.rows), ""]
        lines += [f"Not measured: {' '.join(note.split())}\n" for note in sheet.notes]
    odd = [w for w in run.work if w.missing or w.failure or not w.is_reusing]
    for work in odd:
        lines.append(
            f"Unequal work: {work.peer} "
            + (work.failure or f"lacks {', '.join(work.missing) or 'connection reuse'}")
        )
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    text = "\n".join(lines).strip()
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n\n{END}{after}", encoding="utf-8")


def _verdict_rows(run: Run) -> list[list[str]]:
    return [_verdict_row(verdict) for verdict in verdicts(run.results)]


def _markdown(heads: list[str], rows: list[list[str]]) -> list[str]:
    align = ["---", *("---:" for _ in heads[1:])]
    return ["| " + " | ".join(cells) + " |" for cells in (heads, align, *rows)]


def draw(run: Run) -> bool:
    """Draw CPU per request as bars. False if matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot

    names = ("small", "10k", "post", "cache", "policies", "websocket")
    shown = [
        (name, [m for m in run.results if m.scenario == name and "cpu_us" in m.metrics])
        for name in names
    ]
    shown = [
        (name, members) for name, members in shown if any(m.peer == "nexgate" for m in members)
    ]
    if not shown:
        return False
    columns = min(len(shown), 2)
    rows = -(-len(shown) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4.2 * columns, 2.4 * rows), layout="constrained", squeeze=False
    )
    for axis in list(axes.flat)[len(shown) :]:
        axis.set_visible(False)
    for axis, (name, members) in zip(axes.flat, shown, strict=False):
        members = sorted(members, key=lambda m: -m.metrics["cpu_us"])
        labels = [m.peer for m in members]
        values = [m.metrics["cpu_us"] for m in members]
        colours = ["#1f6feb" if m.peer == "nexgate" else "#b8bec6" for m in members]
        bars = axis.barh(labels, values, color=colours)
        axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
        axis.set_title(SCENARIOS[name][0], fontsize=9)
        axis.set_xlim(0, max(values) * 1.25)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("CPU µs per request or message: less is better", fontsize=10)
    figure.savefig(PICTURE, dpi=130, metadata={"Software": None})
    return True
