"""A graph for the eye."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from ._graph import Node
from ._layers import Place, place

__all__ = ["Drawing"]

_COLOURS: Final = {
    "singleton": ("#e8f0fe", "#3367d6"),
    "scoped": ("#e6f4ea", "#188038"),
    "transient": ("#fef7e0", "#b06000"),
    "broken": ("#fce8e6", "#c5221f"),
}
_CHARACTER: Final = 7.7
_HEIGHT: Final = 44
_GAP_X: Final = 24
_GAP_Y: Final = 58
_MARGIN: Final = 24
_LEGEND: Final = 96
_ARROW: Final = (
    '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7"'
    ' markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="#5f6368"/></marker></defs>'
)


class Drawing:
    """Nodes and edges of a container, as Mermaid or SVG."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = list(nodes)
        numbers = {id(node): number for number, node in enumerate(self.nodes)}
        self._links = [
            (number, numbers[id(need)])
            for number, node in enumerate(self.nodes)
            for need in dict.fromkeys(node.needs.values())
            if id(need) in numbers
        ]

    @property
    def edges(self) -> list[tuple[str, str]]:
        """Who needs whom, by name."""
        keys = [str(node.key) for node in self.nodes]
        return [(keys[a], keys[b]) for a, b in self._links]

    def mermaid(self) -> str:
        """A Mermaid flow chart."""
        lines = ["flowchart TD"]
        for number, node in enumerate(self.nodes):
            # Mermaid reads labels as HTML, and its own quotes end them.
            label = escape(_label(node)).replace("&quot;", "#quot;").replace("&#x27;", "#39;")
            lines.append(f'    n{number}["{label}<br/><small>{_caption(node)}</small>"]')
            lines.append(f"    class n{number} {_style(node)}")
        lines += [f"    n{a} --> n{b}" for a, b in self._links]
        for style, (fill, stroke) in _COLOURS.items():
            lines.append(f"    classDef {style} fill:{fill},stroke:{stroke},color:#202124")
        return "\n".join(lines) + "\n"

    def svg(self) -> str:
        """A picture: who needs something stands above it."""
        widths = [
            max(max(len(_label(n)), len(_caption(n)) * 0.8) * _CHARACTER + 24, 96.0)
            for n in self.nodes
        ]
        boxes, ways = place(widths, self._links, _GAP_X)
        everywhere = [*boxes, *(each for way in ways.values() for each in way)]
        left = min((each.x - each.width / 2 for each in everywhere), default=0.0) - _MARGIN
        for each in dict.fromkeys(everywhere):
            each.x -= left
        width = max((e.x + e.width / 2 for e in everywhere), default=0.0) + _MARGIN
        width = max(width, len(_COLOURS) * _LEGEND + _MARGIN)
        height = max((_top(box) + _HEIGHT for box in boxes), default=0) + 2 * _MARGIN + 16
        parts = [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
                f' width="{width:.0f}" height="{height:.0f}" font-family="system-ui, sans-serif">'
            ),
            _ARROW,
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *_curves(ways),
            *(_box(node, box) for node, box in zip(self.nodes, boxes, strict=True)),
            *(_legend(number, style, height) for number, style in enumerate(_COLOURS)),
        ]
        return "\n".join(parts) + "\n</svg>\n"


def _top(box: Place) -> float:
    return _MARGIN + box.layer * (_HEIGHT + _GAP_Y)


def _curves(ways: dict[tuple[int, int], list[Place]]) -> list[str]:
    ports = _ports(ways)
    return [_curve(way, *ports[edge]) for edge, way in ways.items()]


def _ports(ways: dict[tuple[int, int], list[Place]]) -> dict[tuple[int, int], tuple[float, float]]:
    """Where each edge leaves and enters: side by side, in the order of where they go."""
    sides: dict[tuple[Place, bool], list[tuple[float, tuple[int, int], int]]] = {}
    for edge, way in ways.items():
        for end, (box, toward) in enumerate(((way[0], way[1]), (way[-1], way[-2]))):
            is_below = toward.layer > box.layer
            sides.setdefault((box, is_below), []).append((toward.x, edge, end))
    found: dict[tuple[int, int], list[float]] = {edge: [0.0, 0.0] for edge in ways}
    for (box, _), ends in sides.items():
        step = min(14.0, (box.width - 24) / max(len(ends) - 1, 1))
        for number, (_, edge, end) in enumerate(sorted(ends, key=lambda each: each[0])):
            found[edge][end] = box.x + (number - (len(ends) - 1) / 2) * step
    return {edge: (first, last) for edge, (first, last) in found.items()}


def _curve(way: list[Place], leaves: float, enters: float) -> str:
    is_down = way[-1].layer > way[0].layer
    x, y = leaves, _top(way[0]) + (_HEIGHT if is_down else 0)
    drawn = [f"M{x:.1f} {y:.1f}"]
    for each in way[1:]:
        is_last = each is way[-1]
        to_x = enters if is_last else each.x
        to_y = _top(each) + (0 if is_down else _HEIGHT)
        bend = (to_y - y) / 2
        drawn.append(f"C{x:.1f} {y + bend:.1f} {to_x:.1f} {to_y - bend:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
        if not is_last:
            y += _HEIGHT if is_down else -_HEIGHT
            drawn.append(f"V{y:.1f}")
    dashes = "" if is_down else ' stroke-dasharray="5 4"'
    return (
        f'<path d="{"".join(drawn)}" fill="none" stroke="#9aa0a6" stroke-width="1.4"{dashes}'
        ' marker-end="url(#arrow)"/>'
    )


def _box(node: Node, box: Place) -> str:
    fill, stroke = _COLOURS[_style(node)]
    x, y = box.x - box.width / 2, _top(box)
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{box.width:.1f}" height="{_HEIGHT}" rx="8"'
        f' fill="{fill}" stroke="{stroke}" stroke-width="1.4"/>'
        f'<text x="{box.x:.1f}" y="{y + 19:.1f}" font-size="13" font-weight="600"'
        f' text-anchor="middle" fill="#202124">{escape(_label(node))}</text>'
        f'<text x="{box.x:.1f}" y="{y + 34:.1f}" font-size="11" text-anchor="middle"'
        f' fill="#5f6368">{escape(_caption(node))}</text>'
    )


def _legend(number: int, style: str, height: float) -> str:
    fill, stroke = _COLOURS[style]
    x, y = _MARGIN + number * _LEGEND, height - _MARGIN - 10
    return (
        f'<rect x="{x}" y="{y:.0f}" width="12" height="12" rx="3" fill="{fill}"'
        f' stroke="{stroke}"/><text x="{x + 18}" y="{y + 10:.0f}" font-size="11"'
        f' fill="#5f6368">{style}</text>'
    )


def _label(node: Node) -> str:
    if "#" in (node.key.name or ""):  # one of a collection
        return node.registration.title
    return str(node.key)


def _caption(node: Node) -> str:
    kind = node.registration.kind.value
    return node.lifetime if kind == "function" else f"{node.lifetime} · {kind}"


def _style(node: Node) -> str:
    return "broken" if node.fault is not None else node.lifetime
