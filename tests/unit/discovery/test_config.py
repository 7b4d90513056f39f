"""``discover`` as people write it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from nexgate.config import Finding, Section, Short
from nexgate.config.section import findings
from nexgate.discovery import (
    ConsulProvider,
    DnsProvider,
    FileProvider,
    HttpProvider,
    KubernetesProvider,
    RegistryProvider,
)
from nexgate.discovery import config as sections
from nexgate.discovery.config import DiscoverConfig
from nexgate.state import MemoryState

ADAPTER: TypeAdapter[Any] = TypeAdapter(
    Annotated[DiscoverConfig, Field(discriminator="kind"), Short("kind")]
)


def read(value: object) -> Any:
    return ADAPTER.validate_python(value)


def problems(value: object) -> list[Finding]:
    with pytest.raises(ValidationError) as caught:
        read(value)
    return findings(caught.value)


@pytest.mark.parametrize(
    ("written", "kind", "name"),
    [
        ("registry", RegistryProvider, "registry:api"),
        ({"kind": "registry", "name": "other"}, RegistryProvider, "registry:other"),
        ({"kind": "file", "path": "i.toml", "interval": "1s"}, FileProvider, "file:i.toml"),
        ({"kind": "dns", "host": "h.test", "port": 80}, DnsProvider, "dns:h.test"),
        ({"kind": "dns", "host": "_x._tcp.h", "records": "srv", "grace": "none"}, DnsProvider, ""),
        ({"kind": "dns", "host": "h", "port": 1, "nameserver": "[::1]:53"}, DnsProvider, ""),
        ("consul", ConsulProvider, "consul:api"),
        ({"kind": "consul", "token": "t", "url": "unix:/run/c.sock"}, ConsulProvider, ""),
        ({"kind": "kubernetes", "port": "http"}, KubernetesProvider, "kubernetes:api"),
        ({"kind": "kubernetes", "port": 80, "server": "https://k:6443/"}, KubernetesProvider, ""),
        ({"kind": "http", "url": "http://h:1/x?y=1"}, HttpProvider, "http:http://h:1/x"),
        ({"kind": "http", "url": "http://h", "fields": {"Authorization": "x"}}, HttpProvider, ""),
    ],
)
def test_what_is_written_becomes_a_provider(written: object, kind: type, name: str) -> None:
    provider = read(written).provider("api", MemoryState())
    assert type(provider) is kind
    if name:
        assert provider.name == name


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ("dsn", "must be one of", 'mean "dns"'),
        ({"kind": "dns", "host": "h"}, "is required for addresses", "port = 8000"),
        ({"kind": "dns", "host": "h", "port": 1, "records": "srv"}, "no effect", ""),
        ({"kind": "dns", "host": "http://h", "port": 1}, "not a name", "no scheme"),
        ({"kind": "dns", "host": "h:80", "port": 1}, "not a name", "key of its own"),
        ({"kind": "dns", "host": "h", "port": 1, "nameserver": "ns.h"}, "nameserver", "10.0.0.2"),
        ({"kind": "dns", "host": "h", "port": 1, "min_ttl": 9, "max_ttl": 1}, "more than max", ""),
        ({"kind": "dns", "host": "h", "port": 1, "ttl": 3}, "not a key", "min_ttl"),
        ({"kind": "dns", "host": "h", "port": 0}, "from 1 to 65535", ""),
        ({"kind": "file"}, "is required", "instances.toml"),
        ({"kind": "file", "path": "/"}, "a directory", ""),
        ({"kind": "consul", "url": "http://u:hunter2@h"}, "scheme, host and port", ""),
        ({"kind": "consul", "wait": "1h"}, "at most 600", ""),
        ({"kind": "consul", "dc": "x"}, "not a key", "datacenter"),
        ({"kind": "kubernetes", "kubeconfig": "x"}, "not a key", "token_file"),
        ({"kind": "http", "url": "http://u:hunter2@h/"}, "URL of a document", "fields"),
        ({"kind": "http", "url": "http://h", "headers": {}}, "not a key", "fields"),
        ({"kind": "registry", "name": "a/b"}, "character", ""),
    ],
)
def test_what_is_wrong_is_said_with_a_hint(written: object, message: str, hint: str) -> None:
    found = problems(written)
    assert any(message in f.message and hint in f.hint for f in found), found
    assert not any("hunter2" in f.message + f.hint for f in found)


def test_relative_files_start_at_the_configuration(tmp_path: Path) -> None:
    context = {"directory": tmp_path}
    found = ADAPTER.validate_python({"kind": "file", "path": "i.toml"}, context=context)
    assert found.path == tmp_path / "i.toml"


def test_every_key_is_described() -> None:
    for name in sections.__all__:
        section = getattr(sections, name)
        if isinstance(section, type) and issubclass(section, Section):
            assert section.__doc__
            for key, field in section.model_fields.items():
                assert field.description, f"{name}.{key}"
    assert ADAPTER.json_schema()
