"""Where the boxes of a drawing stand: in layers, who needs something above what it needs.

The steps are those of most drawings of directed graphs: cut cycles, give layers, let a long edge
pass each layer at a place of its own, order the layers so that few edges cross, and then find the
abscissas. The last is a least-squares problem with an order to be kept, which isotonic regression
solves exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

__all__ = ["Place", "place"]

_SWEEPS = 12
_LANE = 14.0
"""Room for an edge that passes a layer."""


@dataclass(slots=True, eq=False)
class Place:
    """A box, or where a long edge passes a layer; ``x`` is its middle."""

    width: float
    layer: int = 0
    x: float = 0.0
    rank: int = 0
    is_lane: bool = False
    above: list[Place] = field(default_factory=list)
    below: list[Place] = field(default_factory=list)


def place(
    widths: Sequence[float], edges: Sequence[tuple[int, int]], gap: float
) -> tuple[list[Place], dict[tuple[int, int], list[Place]]]:
    """Places for boxes of these widths, and for each edge those it goes through, its ends included.

    An edge that closes a cycle goes upwards.
    """
    boxes = [Place(width) for width in widths]
    down = _without_cycles(len(boxes), edges)
    _give_layers(boxes, list(down.values()))
    layers: dict[int, list[Place]] = {}
    for box in boxes:
        layers.setdefault(box.layer, []).append(box)
    ways: dict[tuple[int, int], list[Place]] = {}
    for edge, (first, last) in down.items():
        way = [boxes[first]]
        for layer in range(boxes[first].layer + 1, boxes[last].layer):
            lane = Place(_LANE, layer, is_lane=True)
            layers[layer].append(lane)
            way.append(lane)
        way.append(boxes[last])
        for upper, lower in pairwise(way):
            upper.below.append(lower)
            lower.above.append(upper)
        ways[edge] = way if edge == (first, last) else way[::-1]
    rows = [layers[number] for number in sorted(layers)]
    _order(rows)
    _align(rows, gap)
    return boxes, ways


def _without_cycles(
    count: int, edges: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], tuple[int, int]]:
    """Each edge as it is laid out: turned around where it closes a cycle; none to oneself."""
    needs: list[list[int]] = [[] for _ in range(count)]
    for first, last in edges:
        needs[first].append(last)
    done: set[int] = set()
    open_: set[int] = set()
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for start in range(count):
        if start in done:
            continue
        open_.add(start)
        stack = [(start, iter(needs[start]))]
        while stack:
            node, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                stack.pop()
                open_.discard(node)
                done.add(node)
            elif following in open_:
                if following != node:
                    found[node, following] = (following, node)
            else:
                found[node, following] = (node, following)
                if following not in done:
                    open_.add(following)
                    stack.append((following, iter(needs[following])))
    return found


def _give_layers(boxes: list[Place], edges: list[tuple[int, int]]) -> None:
    """Each below everything that needs it; what nobody needs, right above what it needs."""
    below: list[list[int]] = [[] for _ in boxes]
    waits = [0] * len(boxes)
    for first, last in dict.fromkeys(edges):
        below[first].append(last)
        waits[last] += 1
    roots = ready = [n for n, count in enumerate(waits) if not count]
    while ready:
        following: list[int] = []
        for n in ready:
            for each in below[n]:
                boxes[each].layer = max(boxes[each].layer, boxes[n].layer + 1)
                waits[each] -= 1
                if not waits[each]:
                    following.append(each)
        ready = following
    for n in roots:
        if below[n]:
            boxes[n].layer = min(boxes[each].layer for each in below[n]) - 1


def _order(rows: list[list[Place]]) -> None:
    """Sweep down and up, each place among its neighbours, and keep the order that crosses least."""

    def number() -> None:
        for row in rows:
            for rank, each in enumerate(row):
                each.rank = rank

    number()
    best, least = [list(row) for row in rows], _crossings(rows)
    for sweep in range(_SWEEPS):
        is_down = sweep % 2 == 0
        for row in rows if is_down else reversed(rows):
            row.sort(key=_middle(lambda each, d=is_down: each.above if d else each.below))  # type: ignore[misc]  # bound here
            for rank, each in enumerate(row):
                each.rank = rank
        crossed = _crossings(rows)
        if crossed < least:
            best, least = [list(row) for row in rows], crossed
    rows[:] = best
    number()


def _middle(neighbours: Callable[[Place], list[Place]]) -> Callable[[Place], float]:
    def key(place: Place) -> float:
        near = neighbours(place)
        return sum(each.rank for each in near) / len(near) if near else float(place.rank)

    return key


def _crossings(rows: list[list[Place]]) -> int:
    count = 0
    for row in rows:
        ends: list[int] = []
        for each in row:
            mine = [below.rank for below in each.below]
            count += sum(1 for rank in mine for other in ends if other > rank)
            ends += mine
    return count


def _align(rows: list[list[Place]], gap: float) -> None:
    for row in rows:
        _settle(row, [0.0] * len(row), gap)
    for sweep in range(_SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = []
            for each in row:
                near = [*each.above, *each.below]
                # Long edges are straight first.
                near = [n for n in near if each.is_lane and n.is_lane] or near
                wanted.append(sum(n.x for n in near) / len(near) if near else each.x)
            _settle(row, wanted, gap)


def _settle(row: list[Place], wanted: list[float], gap: float) -> None:
    """As near to what is wanted as the order and the widths allow."""
    offsets = [0.0]
    for left, right in pairwise(row):
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + gap)
    blocks: list[tuple[float, int]] = []  # mean, count
    for want, offset in zip(wanted, offsets, strict=True):
        mean, count = want - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, more = blocks.pop()
            mean = (mean * count + other * more) / (count + more)
            count += more
        blocks.append((mean, count))
    flat = [mean for mean, count in blocks for _ in range(count)]
    for each, mean, offset in zip(row, flat, offsets, strict=True):
        each.x = mean + offset
