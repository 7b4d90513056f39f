"""A list of instances as people and programs write it down.

A list, or a table with the key ``instances``; each element is a URL, or a table with ``url`` and
any other field of a ``ServiceInstance``. ``id`` is the URL where it is not given.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Final

from nexgate.config import KeyPath, did_you_mean
from nexgate.discovery._instance import Instances, ServiceInstance, from_mapping
from nexgate.discovery._url import normal_url

__all__ = ["BadDocument", "read_instances"]

_KEYS: Final = tuple(
    f.name for f in fields(ServiceInstance) if f.name not in ("name", "last_check")
)
_MOST: Final = 10_000


class BadDocument(ValueError):
    """``path`` is where, ``str()`` is what, for people."""

    def __init__(self, path: KeyPath, message: str) -> None:
        super().__init__(message)
        self.path = path


def read_instances(document: object, service: str, *, is_typed: bool) -> Instances:
    """The instances of ``service`` in a decoded document. Raises ``BadDocument``.

    ``is_typed``: a person wrote it, so an unknown key and a repetition are mistakes. A program may
    be newer than we are, and its unknown keys mean nothing to us.
    """
    start: KeyPath = ()
    if isinstance(document, dict):
        if is_typed and (unknown := next((k for k in document if k != "instances"), None)):
            raise BadDocument((str(unknown),), "is not a key here; the key is instances")
        if "instances" not in document:
            raise BadDocument((), "has no key instances")
        document = document["instances"]
        start = ("instances",)
    if not isinstance(document, list):
        raise BadDocument(start, "must be a list of instances")
    if len(document) > _MOST:
        raise BadDocument(start, f"has more than {_MOST} elements")
    found: list[ServiceInstance] = []
    seen: dict[str, int] = {}
    for index, item in enumerate(document):
        path = (*start, index)
        instance = _read(item, path, service, is_typed)
        for name in {instance.id, instance.url}:
            if is_typed and (first := seen.setdefault(name, index)) != index:
                raise BadDocument(path, f"is there already, at {first}")
        found.append(instance)
    return tuple(found)


def _read(item: object, path: KeyPath, service: str, is_typed: bool) -> ServiceInstance:
    if isinstance(item, str):
        item = {"url": item}
    if not isinstance(item, dict):
        raise BadDocument(path, "must be a URL or a table with url")
    if is_typed:
        for key in item:
            if key not in _KEYS:
                hint = did_you_mean(str(key), _KEYS, otherwise="the keys are")
                raise BadDocument((*path, str(key)), f"is not a key here; {hint}")
    try:
        url = normal_url(item.get("url"))
        return from_mapping({"id": url, **item, "name": service, "last_check": 0.0})
    except ValueError as error:
        raise BadDocument(path, str(error)) from None
