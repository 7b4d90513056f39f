"""The documentation tells the truth: its blocks run, and its links lead somewhere."""

from __future__ import annotations

import re
import sys
import tomllib
import types
from pathlib import Path

import pytest

from nexgate.errors import Cause

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for number, match in enumerate(FENCE.finditer(page.read_text())):
            if match[1] == language:
                found.append((f"{page.relative_to(ROOT)}:{number}", match[2]))
    return found


@pytest.mark.parametrize("text", [b[1] for b in blocks("toml")], ids=[b[0] for b in blocks("toml")])
def test_toml_blocks_are_valid_configurations(text: str, tmp_path: Path) -> None:
    from nexgate.config import InvalidConfig
    from nexgate.gateway_config import load_text

    if not re.search(r"^\[(\[routes\]|gateway|services)", text, re.M):
        tomllib.loads(text)
        return
    if "mistakes" in text:
        with pytest.raises(InvalidConfig):
            load_text(text, filename="gateway.toml", env={})
        return
    if "tls/" in text:
        pytest.importorskip("trustme")
        write_certificates(tmp_path, text)
    load_text(text, filename=str(tmp_path / "gateway.toml"), env={"JWT_SECRET": "x"})


def write_certificates(folder: Path, text: str) -> None:
    import trustme

    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    (folder / "tls").mkdir()
    for name in re.findall(r"tls/([\w-]+\.(?:pem|key))", text):
        target = folder / "tls" / name
        if name.endswith(".key"):
            leaf.private_key_pem.write_to_path(str(target))
        elif "ca" in name or "clients" in name:
            authority.cert_pem.write_to_path(str(target))
        else:
            leaf.cert_chain_pems[0].write_to_path(str(target))


PYTHON = [b for b in blocks("python") if "runnable: no" not in b[1]]


@pytest.mark.parametrize("text", [b[1] for b in PYTHON], ids=[b[0] for b in PYTHON])
def test_python_blocks_run(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some leave files
    module = types.ModuleType("docs")
    monkeypatch.setitem(sys.modules, "docs", module)
    namespace = module.__dict__
    # As whoever copies it would run it: without what this file imports from the future.
    exec(compile(text, "docs", "exec", dont_inherit=True), namespace)
    gateway = namespace.get("gateway")
    if gateway is not None and hasattr(gateway, "build"):
        gateway.build()


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor and found.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", found.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, target


def test_every_cause_has_a_section() -> None:
    text = (ROOT / "docs/reference/errors.md").read_text()
    sections = re.findall(r"^## (.+)$", text, re.M)
    assert sections == [cause.slug for cause in Cause]
    for cause in Cause:
        assert f"**{cause.status}** · {cause.title} · `{cause.site.value}` · `{cause.type}`" in text


def test_the_tree_names_no_machine_and_no_package_host() -> None:
    import subprocess

    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    for name in tracked:
        path = ROOT / name
        if path.suffix in (".png", ".ico") or not path.is_file():
            continue
        text = path.read_text(errors="ignore")
        assert not re.search(r"(?:index-url|extra-index-url) *[=:] *.?https?://", text), name
