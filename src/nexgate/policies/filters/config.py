"""A filter in a configuration: which function, with which options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from nexgate.config import ObjectPath, Section, Short

__all__ = ["Filters"]


class FilterConfig(Section):
    """A function through which exchanges pass. The short form is ``use``."""

    foreign: ClassVar[Mapping[str, str]] = {
        "name": "the key is use",
        "function": "the key is use",
        "path": "the key is use",
        "config": "the key is options",
        "args": "the key is options",
        "kwargs": "the key is options",
    }

    use: ObjectPath = Field(examples=['"package.module:function"'])
    """``"package.module:function"``, or ``"plugin:name"`` for one that a plugin has."""

    options: dict[str, Any] = {}
    """Values for the keyword-only parameters of the function."""


Filters = tuple[Annotated[FilterConfig, Short("use")], ...]
"""Filters in order."""
