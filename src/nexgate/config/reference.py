"""The reference of a configuration, written from its models.

    python -m nexgate.config.reference > docs/reference/configuration.md

Every key's meaning, default and limits stand in the model; a second copy in the documentation would
be wrong within a month. A test compares the file with what this writes.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, get_args, get_origin

from pydantic.fields import FieldInfo

from .quantities import spell_duration, spell_size
from .section import Section

ROOT: Final = "nexgate.gateway_config:GatewayConfig"
"""What is documented unless another is named. Not an import: this package knows no gateway."""

_HEAD: Final = """\
# Configuration

<!-- Written by `python -m nexgate.config.reference`; change the models, not this file. -->

A configuration is a TOML file (`gateway.toml`) or the same models in Python. `nexgate check`
reports every problem of it at once; an unknown key is a problem. `nexgate check --schema` prints a
JSON Schema; an editor finds it where the file begins with `"$schema" = "schema.json"`.

How values are written:

| form | written | means |
|---|---|---|
| duration | `"250ms"`, `"1m30s"`, `2.5` | d, h, m, s, ms, us, large to small, or seconds |
| timeout | a duration more than zero, or `"none"` | `"none"` is no limit |
| size | `"64KiB"`, `"1MB"`, `"10k"`, `65536` | KiB, MiB are 1024s; k, kB, MB are 1000s |
| file | `"tls/server.pem"` | relative to the directory of the configuration |
| object | `"package.module:name"` | something to import |

Every text value may contain `${NAME}`, which the environment supplies, or `${NAME:-default}`, where
the default also stands in for an empty variable; `$${` is a plain `${`. A variable that is not set
is a problem. `"${NAME}"` alone may also stand for a number or a truth value. No report shows what a
variable holds.
"""


@dataclass(frozen=True, slots=True)
class _Place:
    """A section with the path under which it stands first."""

    path: str
    model: type[Section]


def markdown(root: type[Section]) -> str:
    """The reference of ``root`` and everything under it."""
    places = list(_places(root, "", set()))
    first = {place.model: place.path for place in reversed(places)}
    parts = [_HEAD, *(_section(place, first) for place in places)]
    return "\n".join(parts).rstrip() + "\n"


def _places(model: type[Section], path: str, seen: set[type[Section]]) -> Iterator[_Place]:
    if model in seen:
        return
    seen.add(model)
    yield _Place(path, model)
    for key, name in model.keys().items():
        for suffix, inner in _inner(model.model_fields[name].annotation):
            yield from _places(inner, f"{path}.{key}{suffix}".lstrip("."), seen)


def _inner(annotation: Any) -> Iterator[tuple[str, type[Section]]]:
    """The sections in an annotation, with what their path gets: ``[]`` or ``.NAME``."""
    if inspect.isclass(annotation) and issubclass(annotation, Section):
        yield "", annotation
        return
    suffixes: dict[object, str] = {tuple: "[]", list: "[]", dict: ".NAME"}
    suffix = suffixes.get(get_origin(annotation), "")
    for argument in get_args(annotation):
        for deeper, model in _inner(argument):
            yield suffix + deeper, model


def _section(place: _Place, first: dict[type[Section], str]) -> str:
    model = place.model
    kind = model.model_fields.get("kind")
    variant = f", kind {kind.default}" if kind is not None else ""
    title = f"`{place.path}`{variant}" if place.path else "The file"
    schema = model.model_json_schema(by_alias=True)
    lines = [f"\n## {title}\n", _prose(model.__doc__ or ""), ""]
    rows = []
    for key, name in model.keys().items():
        field = model.model_fields[name]
        form = _form(schema["properties"][key], schema.get("$defs", {}))
        nested = next((m for _, m in _inner(field.annotation) if m in first), None)
        see = f" See [`{first[nested]}`](#{_anchor(first[nested], nested)})." if nested else ""
        meaning = _prose(field.description or "").replace("|", "\\|") + see
        default = _default(field, schema["properties"][key])
        rows.append(f"| `{key}` | {form} | {default} | {meaning} |")
    if rows:
        lines += ["| key | value | default | meaning |", "|---|---|---|---|", *rows]
    return "\n".join(lines)


def _anchor(path: str, model: type[Section]) -> str:
    kind = model.model_fields.get("kind")
    title = f"{path}, kind {kind.default}" if kind is not None else path
    return re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-")


def _prose(text: str) -> str:
    return " ".join(inspect.cleandoc(text).replace("``", "`").split())


def _form(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A JSON Schema in a few words."""
    if "$comment" in schema:
        return str(schema["$comment"])
    if "$ref" in schema or "oneOf" in schema:
        return "table"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(word)}`" for word in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "anyOf" in schema:
        forms = [_form(form, definitions) for form in schema["anyOf"] if not _is_implied(form)]
        return " or ".join(dict.fromkeys(forms))
    kind = schema.get("type", "value")
    if kind == "array":
        items = _form(schema.get("items", {}), definitions)
        return f"list of {'tables' if items == 'table' else items}"
    if kind == "object":
        return "table"
    if kind in ("integer", "number") and "minimum" in schema and "maximum" in schema:
        return f"{schema['minimum']} to {schema['maximum']}"
    words = {"string": "text", "boolean": "`true` or `false`", "integer": "whole number"}
    return words.get(str(kind), str(kind))


def _is_implied(schema: dict[str, Any]) -> bool:
    """``null`` is how JSON Schema says unset; ``${NAME}`` is explained once, at the top."""
    return schema.get("type") == "null" or schema.get("pattern", "").startswith(r"^\$\{")


def _default(field: FieldInfo, schema: dict[str, Any]) -> str:
    if field.is_required():
        return "required"
    value = field.default
    form = schema.get("$comment", "")
    if value is None:
        return {"timeout": '`"none"`', 'size or `"unlimited"`': "unset"}.get(form, "unset")
    if isinstance(value, Section):
        said = type(value).model_fields.get("kind")
        return f'`"{said.default}"`' if said is not None else "as below"
    if form in ("duration", "timeout"):
        return f'`"{spell_duration(value)}"`'
    if form.startswith("size"):
        return f'`"{spell_size(value)}"`'
    if "default" in schema:
        return f"`{json.dumps(_short(schema['default']))}`"
    return f"`{json.dumps(value, default=str)}`"


def _short(value: Any) -> Any:
    """Defaults as a person would write them: the address for a listener, a range for a pair."""
    match value:
        case [{"address": str(address)}]:
            return address
        case [[int(low), int(high)]]:
            return f"{low}-{high}"
        case _:
            return value


def main(argv: list[str]) -> None:
    """Write the reference of ``argv[0]`` (``module:Model``) to stdout."""
    module, _, name = (argv[0] if argv else ROOT).partition(":")
    model = getattr(importlib.import_module(module), name)
    sys.stdout.write(markdown(model))


if __name__ == "__main__":
    main(sys.argv[1:])
