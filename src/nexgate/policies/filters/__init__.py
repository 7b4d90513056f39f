"""User code on the exchanges: plain functions, sync or async, before, after or around."""

from nexgate.policies.filters._filter import Filter, FilterFunction, make_filter

__all__ = ["Filter", "FilterFunction", "make_filter"]
