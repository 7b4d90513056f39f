"""A graph for the eye."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Final

from ._graph import Node

__all__ = ["Drawing"]

_COLOURS: Final = {
    "singleton": ("#e8f0fe", "#3367d6"),
    "scoped": ("#e6f4ea", "#188038"),
    "transient": ("#fef7e0", "#b06000"),
    "broken": ("#fce8e6", "#c5221f"),
}
_CHARACTER: Final = 7.4
_HEIGHT: Final = 44
_GAP_X: Final = 28
_GAP_Y: Final = 56
_MARGIN: Final = 24


@dataclass(slots=True)
class _Box:
    node: Node
    layer: int = 0
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0


class Drawing:
    """Nodes and edges of a container, as Mermaid or SVG."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = list(nodes)

    @property
    def edges(self) -> list[tuple[str, str]]:
        """Who needs whom, by name."""
        known = {id(node) for node in self.nodes}
        return [
            (str(node.key), str(need.key))
            for node in self.nodes
            for need in node.needs.values()
            if id(need) in known
        ]

    def mermaid(self) -> str:
        """A Mermaid flow chart."""
        names = {str(node.key): f"n{number}" for number, node in enumerate(self.nodes)}
        lines = ["flowchart TD"]
        for node in self.nodes:
            label = f"{_label(node)}<br/><small>{_caption(node)}</small>".replace('"', "#quot;")
            lines.append(f'    {names[str(node.key)]}["{label}"]:::{_style(node)}')
        lines += [f"    {names[a]} --> {names[b]}" for a, b in self.edges]
        for style, (fill, stroke) in _COLOURS.items():
            lines.append(f"    classDef {style} fill:{fill},stroke:{stroke},color:#202124")
        return "\n".join(lines) + "\n"

    def svg(self) -> str:
        """A picture: who needs something stands above it."""
        boxes = self._placed()
        width = max((b.x + b.width for b in boxes.values()), default=0) + _MARGIN
        height = max((b.y + _HEIGHT for b in boxes.values()), default=0) + _MARGIN + 28
        width = max(width, 4 * 110 + _MARGIN)
        parts = [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
                f' width="{width:.0f}" height="{height:.0f}" font-family="system-ui, sans-serif">'
            ),
            (
                '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7"'
                ' markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="#5f6368"/>'
                "</marker></defs>"
            ),
            '<rect width="100%" height="100%" fill="#ffffff"/>',
        ]
        for box in boxes.values():
            for need in box.node.needs.values():
                target = boxes.get(id(need))
                if target is not None:
                    parts.append(_edge(box, target))
        parts += [_drawn(box) for box in boxes.values()]
        for number, (style, (fill, stroke)) in enumerate(_COLOURS.items()):
            x, y = _MARGIN + number * 110, height - 24
            parts.append(
                f'<rect x="{x}" y="{y:.0f}" width="12" height="12" rx="3" fill="{fill}"'
                f' stroke="{stroke}"/><text x="{x + 18}" y="{y + 10:.0f}" font-size="11"'
                f' fill="#5f6368">{style}</text>'
            )
        return "".join(parts) + "</svg>\n"

    def _placed(self) -> dict[int, _Box]:
        boxes = {id(node): _Box(node) for node in self.nodes}
        for box in boxes.values():
            text = max(len(_label(box.node)), len(_caption(box.node)) * 0.85)
            box.width = max(text * _CHARACTER + 28, 96)

        # Below everything that needs it; a cycle is cut where it closes.
        def sink(box: _Box, layer: int, path: tuple[int, ...]) -> None:
            if layer < box.layer or id(box) in path:
                return
            box.layer = layer
            for need in box.node.needs.values():
                if id(need) in boxes:
                    sink(boxes[id(need)], layer + 1, (*path, id(box)))

        needed = {id(n) for node in self.nodes for n in node.needs.values()}
        for key, box in boxes.items():
            if key not in needed:
                sink(box, 0, ())
        for box in boxes.values():
            sink(box, box.layer, ())
        layers: dict[int, list[_Box]] = {}
        for box in boxes.values():
            layers.setdefault(box.layer, []).append(box)
        rows = [layers[number] for number in sorted(layers)]
        widest = max((_row_width(row) for row in rows), default=0.0)
        self._order(rows, boxes)
        for number, row in enumerate(rows):
            x = _MARGIN + (widest - _row_width(row)) / 2
            for box in row:
                box.x, box.y = x, _MARGIN + number * (_HEIGHT + _GAP_Y)
                x += box.width + _GAP_X
        return boxes

    def _order(self, rows: list[list[_Box]], boxes: dict[int, _Box]) -> None:
        """Put each box near those that need it: a few sweeps of barycentres."""
        place: dict[int, float] = {}
        for row in rows:
            for number, box in enumerate(row):
                place[id(box.node)] = number - len(row) / 2
        above: dict[int, list[int]] = {}
        for box in boxes.values():
            for need in box.node.needs.values():
                above.setdefault(id(need), []).append(id(box.node))
        for _ in range(4):
            for row in rows:
                for box in row:
                    near = [
                        *above.get(id(box.node), ()),
                        *(id(n) for n in box.node.needs.values() if id(n) in boxes),
                    ]
                    if near:
                        place[id(box.node)] = sum(place[each] for each in near) / len(near)
                row.sort(key=lambda box: place[id(box.node)])
                for number, box in enumerate(row):
                    place[id(box.node)] = number - len(row) / 2


def _row_width(row: list[_Box]) -> float:
    return sum(box.width for box in row) + _GAP_X * (len(row) - 1)


def _edge(box: _Box, target: _Box) -> str:
    x1, y1 = box.x + box.width / 2, box.y + _HEIGHT
    x2, y2 = target.x + target.width / 2, target.y - 2
    bend = max((y2 - y1) / 2, 24)
    return (
        f'<path d="M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f}'
        f' {x2:.1f} {y2:.1f}" fill="none" stroke="#9aa0a6" stroke-width="1.4"'
        ' marker-end="url(#arrow)"/>'
    )


def _drawn(box: _Box) -> str:
    fill, stroke = _COLOURS[_style(box.node)]
    middle = box.x + box.width / 2
    return (
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{_HEIGHT}" rx="8"'
        f' fill="{fill}" stroke="{stroke}" stroke-width="1.4"/>'
        f'<text x="{middle:.1f}" y="{box.y + 19:.1f}" font-size="13" font-weight="600"'
        f' text-anchor="middle" fill="#202124">{escape(_label(box.node))}</text>'
        f'<text x="{middle:.1f}" y="{box.y + 34:.1f}" font-size="11" text-anchor="middle"'
        f' fill="#5f6368">{escape(_caption(box.node))}</text>'
    )


def _label(node: Node) -> str:
    key = str(node.key)
    return key.partition(" named '")[0] + " (one of several)" if "#" in key else key


def _caption(node: Node) -> str:
    kind = node.registration.kind.value
    return node.lifetime if kind == "function" else f"{node.lifetime} · {kind}"


def _style(node: Node) -> str:
    return "broken" if node.fault is not None else node.lifetime
