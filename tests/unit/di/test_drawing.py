"""Drawings that can be read: nothing lies over something else."""

from __future__ import annotations

import random
import re
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexgate.di import Container
from nexgate.di._layers import place

SVG = "{http://www.w3.org/2000/svg}"


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[float], list[tuple[int, int]]]:
    count = draw(st.integers(1, 14))
    nodes = st.integers(0, count - 1)
    widths = draw(st.lists(st.floats(40, 300), min_size=count, max_size=count))
    return widths, draw(st.lists(st.tuples(nodes, nodes), max_size=30, unique=True))


@given(graphs())
@settings(max_examples=150, deadline=None)
def test_no_two_places_of_any_graph_overlap_and_every_edge_goes_down_or_closes_a_cycle(
    graph: tuple[list[float], list[tuple[int, int]]],
) -> None:
    widths, edges = graph
    boxes, ways = place(widths, edges, 10)
    everywhere = {id(p): p for p in (*boxes, *(p for way in ways.values() for p in way))}
    for one, other in combinations(everywhere.values(), 2):
        if one.layer == other.layer:
            assert abs(one.x - other.x) >= (one.width + other.width) / 2 + 10 - 1e-6
    for (first, last), way in ways.items():
        assert (way[0], way[-1]) == (boxes[first], boxes[last])
        steps = {b.layer - a.layer for a, b in pairwise(way)}
        assert steps in ({1}, {-1})
    assert set(ways) == {edge for edge in edges if edge[0] != edge[1]}


def test_a_ladder_of_diamonds_is_placed_at_once() -> None:
    edges = [(2 * n + a, 2 * n + 2 + b) for n in range(60) for a in (0, 1) for b in (0, 1)]
    boxes, _ = place([100.0] * 122, edges, 10)
    assert boxes[-1].layer == 60


def test_hundreds_of_dependencies_can_be_drawn() -> None:
    chance = random.Random(7)
    edges = [(n, m) for n in range(200) for m in range(n + 1, 200) if chance.random() < 0.01]
    boxes, _ = place([100.0] * 200, edges, 10)
    assert len(boxes) == 200


@pytest.mark.parametrize("name", ['a "b" <c> & d', "it's"])
def test_names_are_escaped(name: str) -> None:
    container = Container()
    container.register(int, 1, name=name)
    drawing = container.graph()
    ElementTree.fromstring(drawing.svg())
    label = re.findall(r'n0\["(.*)<br/>', drawing.mermaid())
    assert len(label) == 1
    assert not set('"<>') & set(label[0])


def test_nothing_can_be_drawn() -> None:
    ElementTree.fromstring(Container().graph().svg())
