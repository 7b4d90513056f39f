"""Every public name has one home, a docstring, and is what the package says it is."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import nexgate

PACKAGES = [
    "nexgate",
    *(
        f"nexgate.{m.name}"
        for m in pkgutil.iter_modules(nexgate.__path__)
        if not m.name.startswith("_") and m.name not in ("demo",)
    ),
]


@pytest.mark.parametrize("name", PACKAGES)
def test_what_a_package_exports_exists_and_explains_itself(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, name
    for public in getattr(module, "__all__", ()):
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{name}.{public}"


def test_the_front_door_leads_to_one_home_each() -> None:
    for public in nexgate.__all__:
        if public != "__version__":
            assert getattr(nexgate, public).__module__.startswith("nexgate."), public
    with pytest.raises(AttributeError):
        nexgate.nothing_of_the_kind  # noqa: B018
