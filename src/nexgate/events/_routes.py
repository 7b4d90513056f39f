"""Who handles a topic, worked out once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ._errors import Delivery
from ._subscription import Handler, Subscription

__all__ = ["Route"]


@dataclass(frozen=True, slots=True)
class Route:
    """The handlers of one topic, and the shortest way to call them."""

    subscriptions: tuple[Subscription, ...]
    levels: tuple[tuple[Subscription, ...], ...]
    """By priority, the highest first."""
    plain: tuple[Handler, ...] | None
    """Plain functions in order, when there is nothing else to do but call them."""
    done: Delivery
    """What publishing returns when all went well."""

    @classmethod
    def of(cls, subscriptions: Iterable[Subscription], topic: str) -> Route:
        """The route of ``topic``."""
        found = [each for each in subscriptions if each.is_active and each.matches(topic)]
        found.sort(key=lambda each: -each.options.priority)  # stable: else as they came
        levels: dict[int, list[Subscription]] = {}
        for each in found:
            levels.setdefault(each.options.priority, []).append(each)
        is_plain = all(each.is_plain for each in found)
        return cls(
            tuple(found),
            tuple(tuple(level) for level in levels.values()),
            tuple(each.call for each in found) if is_plain else None,
            Delivery(len(found)),
        )
