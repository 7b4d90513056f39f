"""Header rules as hooks. The fields to write are made once, when the configuration is compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nexgate.config import SecretText
from nexgate.exchange import Exchange, Hook, Response
from nexgate.http import Field, make_field
from nexgate.policies.headers.config import HeaderRules

__all__ = ["request_hook", "response_hook"]


def request_hook(rules: HeaderRules) -> Hook:
    """Innermost in the request phase: filters see what the client sent, the service sees the
    result.
    """
    change = _compile(rules)

    def on_request(exchange: Exchange) -> None:
        fields = exchange.own_fields()
        fields[:] = change(fields)

    return Hook("request_headers", on_request=on_request)


def response_hook(rules: HeaderRules) -> Hook:
    """Outermost in the response phase: also problems and answers of filters get these fields."""
    change = _compile(rules)

    def on_response(exchange: Exchange, response: Response) -> None:
        headers = response.headers
        headers.fields[:] = change(headers.fields)

    return Hook("response_headers", on_response=on_response)


def _compile(rules: HeaderRules) -> Callable[[list[Field]], list[Field]]:
    renames = {_lower(old): new.encode("latin-1") for old, new in rules.rename.items()}
    replaced = _fields(rules.set)
    dropped = {_lower(name) for name in rules.remove} | {f.name for f in replaced}
    defaults = _fields(rules.default)
    added = _fields(rules.add)

    def change(fields: list[Field]) -> list[Field]:
        if renames:
            fields = [make_field(renames[f[0]], f[1]) if f[0] in renames else f for f in fields]
        if dropped:
            fields = [f for f in fields if f[0] not in dropped]
        if defaults:
            present = {f[0] for f in fields}
            fields = fields + [f for f in defaults if f[0] not in present]
        return [*fields, *replaced, *added]

    return change


def _lower(name: str) -> bytes:
    return name.lower().encode("latin-1")


def _fields(pairs: Mapping[str, SecretText]) -> list[Field]:
    return [
        make_field(name.encode("latin-1"), value.reveal().encode("latin-1"))
        for name, value in pairs.items()
    ]
