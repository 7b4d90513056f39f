"""What a sidecar must be told, and what it says when it is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import ValidationError

from nexgate.cli import main
from nexgate.config import InvalidConfig, parse
from nexgate.sidecar import SidecarConfig
from nexgate.sidecar.config import SidecarSection

ROOT = Path(__file__).parents[3]


def problems(**section: Any) -> list[str]:
    """Paths of what ``complete`` misses."""
    config = SidecarConfig(sidecar=SidecarSection(**section))
    try:
        config.complete()
    except InvalidConfig as invalid:
        return [problem.path.removeprefix("sidecar.") for problem in invalid.problems]
    return []


def certificates(
    folder: Path, name: str = "orders", authority: trustme.CA | None = None
) -> dict[str, str]:
    authority = authority or trustme.CA()
    leaf = authority.issue_cert(name)
    paths = {key: str(folder / f"{key}.pem") for key in ("certificate", "key", "ca")}
    leaf.cert_chain_pems[0].write_to_path(paths["certificate"])
    leaf.private_key_pem.write_to_path(paths["key"])
    authority.cert_pem.write_to_path(paths["ca"])
    return paths


APP = {"service": "orders", "app": "http://127.0.0.1:9001"}


def test_everything_that_is_missing_is_said_at_once() -> None:
    assert problems() == ["egress"]
    assert problems(ingress="0.0.0.0:443") == ["app", "service", "certificate", "advertise"]
    assert problems(egress=":1", app="http://127.0.0.1:1", allow=["a"]) == ["app", "allow"]


@pytest.mark.parametrize("address", ["0.0.0.0:1", "10.0.0.7:1", "[::]:1", "example.com:1"])
def test_egress_is_for_this_machine_unless_somebody_means_it(address: str) -> None:
    assert problems(egress=address) == ["egress"]
    assert problems(egress=address, egress_anywhere=True) == []


@pytest.mark.parametrize("address", [":1", "127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/a"])
def test_egress_on_this_machine(address: str) -> None:
    assert problems(egress=address) == []


def test_ingress_has_certificates_or_says_that_it_has_none(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    assert problems(**APP, ingress="10.0.0.7:443") == ["certificate"]
    assert problems(**APP, ingress="10.0.0.7:443", insecure=True) == []
    assert problems(**APP, ingress="10.0.0.7:443", **files) == []
    assert problems(**APP, ingress="10.0.0.7:443", **files, insecure=True) == ["insecure"]
    assert problems(**APP, ingress="10.0.0.7:443", insecure=True, allow="a") == ["allow"]
    del files["ca"]
    assert problems(**APP, ingress="10.0.0.7:443", **files) == ["ca"]


def test_what_is_advertised_is_what_ingress_speaks(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    section = SidecarSection(**APP, ingress="10.0.0.7:443", **files)
    assert section.advertised == "https://10.0.0.7:443"
    assert SidecarSection(**APP, ingress="10.0.0.7:80").advertised == "http://10.0.0.7:80"
    assert SidecarSection(ingress="0.0.0.0:80").advertised is None
    assert SidecarSection(ingress="127.0.0.1:0").advertised is None
    plain, secure = "http://10.0.0.7:443", "https://10.0.0.7:443"
    assert problems(**APP, ingress=":443", **files, advertise=plain) == ["advertise"]
    assert problems(**APP, ingress=":443", insecure=True, advertise=secure) == ["advertise"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"service": "Users"}, "has capital letters"),
        ({"service": "a/b"}, "is not the name of a service"),
        ({"app": "https://127.0.0.1:1"}, "is not where a local program listens"),
        ({"app": "asgi:a:b"}, "is not where a local program listens"),
        ({"advertise": "unix:/run/x"}, "cannot be reached from elsewhere"),
        ({"registry": "redis:"}, "lacks its slashes"),
        ({"registry": "memory"}, "is known to this process only"),
        ({"health": "health"}, "path"),
        ({"cert": "x"}, "the key is certificate"),
    ],
)
def test_mistakes_get_a_message(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SidecarSection(**section)
    found = caught.value.errors()[0]
    assert message in f"{found['msg']} {found.get('ctx', {}).get('hint', '')}"


def test_a_service_is_called_as_its_table_says_and_else_as_the_defaults(tmp_path: Path) -> None:
    config = parse(
        '[defaults]\nretry = 3\ntimeout = { total = "5s", connect = "100ms" }\n'
        '[services.users]\ntimeout = "1s"\n'
        '[services.legacy]\ninstances = ["http://127.0.0.1:1"]\n',
        SidecarConfig,
    )
    users, other = config.called("users"), config.called("other")
    assert users.retry is not None
    assert users.retry.attempts == 3
    assert (users.timeout.total, users.timeout.connect) == (1.0, 0.1)
    assert (other.timeout.total, other.timeout.connect) == (5.0, 0.1)
    assert [each.kind for each in users.discover] == ["registry"]
    assert not config.called("legacy").discover
    assert users.tls is None
    section = SidecarSection(**certificates(tmp_path))
    secured = config.model_copy(update={"sidecar": section}).called("users")
    assert secured.tls is not None
    assert secured.tls.server_name == "users"


def test_a_sidecar_runs_nobodys_application() -> None:
    with pytest.raises(InvalidConfig, match="is an application"):
        parse('[services.a]\ninstances = ["asgi:a:b"]\n', SidecarConfig)


def test_the_page_shows_files_that_work(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "sidecar.md").read_text()
    blocks = re.findall(r"^~~~toml\n(.*?)^~~~", page, re.M | re.S)
    assert blocks
    (tmp_path / "tls").mkdir()
    files = certificates(tmp_path)
    for path, name in zip(files.values(), ("orders.pem", "orders.key", "ca.pem"), strict=True):
        Path(path).rename(tmp_path / "tls" / name)
    for block in blocks:
        parse(block, SidecarConfig, filename=str(tmp_path / "sidecar.toml")).complete()


def test_every_key_of_the_file_is_on_the_page() -> None:
    page = (ROOT / "docs" / "how-to" / "sidecar.md").read_text()
    for key in SidecarSection.model_fields:
        assert f"`{key}`" in page, key


# --- the command ----------------------------------------------------------------------------------


def cli(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(("sidecar", *argv))
    out, err = capsys.readouterr()
    assert type(stop.value.code) is int
    return stop.value.code, out, err


def test_check_says_whether_it_would_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = certificates(tmp_path)
    tls = ("--cert", files["certificate"], "--key", files["key"], "--ca", files["ca"])
    where = ("--app", "http://127.0.0.1:9001", "--ingress", "10.0.0.7:15443")
    secret = ("--registry", "redis://user:secret@10.0.0.2:6379/0")
    code, out, err = cli(capsys, "--service", "orders", *where, *tls, *secret, "--check")
    assert (code, err) == (0, "")
    assert "advertised as https://10.0.0.7:15443" in out
    assert "secret" not in out
    code, _, err = cli(capsys, "--service", "users", *where, *tls, "--check")
    assert code == 1
    assert "mismatch" in err
    other = tmp_path / "other"
    other.mkdir()
    key = certificates(other)["key"]
    code, _, err = cli(
        capsys, "--service", "orders", *where, *tls[:2], "--key", key, *tls[4:], "--check"
    )
    assert code == 1
    assert "cannot be used together" in err


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (("--egress", "nonsense"), "--egress"),
        (("--cert", "nowhere.pem"), "--cert"),
        (("--lease", "long"), "--lease"),
        (("--log-level", "loud"), "--log-level"),
        (("nowhere.toml",), "FILE"),
    ],
)
def test_options_that_make_no_sense_are_a_usage_error(
    argv: tuple[str, ...], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = cli(capsys, *argv)
    assert (code, out) == (2, "")
    assert shown in err


def test_what_is_missing_is_a_problem_of_the_configuration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = cli(capsys)
    assert code == 1
    assert "there is nothing to do" in err
    code, _, err = cli(capsys, "--egress", "0.0.0.0:1")
    assert code == 1
    assert "--egress-anywhere" in err
