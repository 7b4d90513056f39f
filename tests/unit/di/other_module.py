"""A base class in a module of its own: what its annotations say is known here only."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal as Money


@dataclass
class Priced:
    price: Money
