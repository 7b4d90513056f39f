"""Every command: what it prints where, and its exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nexgate.cli import _backend, main
from nexgate.cli._exit import ExitCode
from nexgate.cli._source import DEFAULT_NAMES
from nexgate.config import Overrides
from nexgate.errors import NexgateError

GOOD = """\
[services.users]
instances = ["http://127.0.0.1:9001"]
[[routes]]
name = "user"
path = "/users/{id:int}"
methods = ["GET"]
headers = { X-Version = "2", X-B = true, X-C = false, X-D = { regex = "a+" } }
service = "users"
[[routes]]
name = "canary"
host = "*.example.com"
path = "/canary/*"
split = [{ service = "users", weight = 3 }, { service = "users2" }]
[services.users2]
instances = ["http://127.0.0.1:9002"]
[[routes]]
path = "/old"
redirect = "/new"
[[routes]]
path = "/alive"
respond = 204
"""
BAD = '[services.users]\ninstances = ["http://h"]\n[[routes]]\npath = "/"\nservice = "user"\n'

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command in an empty directory: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("FORCE_COLOR", "NO_COLOR", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)

    def run(*argv: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(argv)
        out, err = capsys.readouterr()
        assert type(stop.value.code) is int
        assert "Traceback" not in out + err
        assert "\x1b" not in out + err, "colours are for terminals"
        return stop.value.code, out, err

    return run


# --- help -----------------------------------------------------------------------------------------

COMMANDS = (
    *("run", "check", "routes", "explain", "init", "demo", "sidecar", "version"),
    *("plugins", "di", "worker", "tasks", "events"),
)


def test_help_names_every_command_and_how_to_begin(cli: Cli) -> None:
    code, out, err = cli("--help")
    assert (code, err) == (0, "")
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", out)
    assert "nexgate demo" in out
    assert "nexgate explain GET /users/42" in out
    assert cli("-h")[1] == out


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "version"])
def test_help_of_a_command_has_examples(cli: Cli, command: str) -> None:
    code, out, _ = cli(command, "--help")
    assert code == 0
    assert f"nexgate {command}" in out.split("Examples")[1]


def test_no_command_shows_the_help(cli: Cli) -> None:
    code, out, err = cli()
    assert code == ExitCode.USAGE
    assert "nexgate init" in out + err


@pytest.mark.parametrize(
    "argv",
    [
        ("rnu",),
        ("run", "--nope"),
        ("run", "nope.toml"),
        ("run", "."),
        ("check", "nope.toml"),
        ("check", "--format", "xml"),
        ("explain", "GET"),
        ("routes",),
        ("init", "a", "b"),
        ("demo", "--port", "99999"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_a_usage_error(
    cli: Cli, argv: tuple[str, ...]
) -> None:
    code, out, err = cli(*argv)
    assert (code, out) == (ExitCode.USAGE, "")
    assert "Usage:" in err


def test_a_misspelt_command_gets_a_hint(cli: Cli) -> None:
    assert "Did you mean 'run'?" in cli("rnu")[2]


def test_a_file_of_another_kind_is_a_usage_error(cli: Cli) -> None:
    Path("gateway.yaml").write_text("a: 1")
    code, _, err = cli("check", "gateway.yaml")
    assert code == ExitCode.USAGE
    assert "neither .toml nor .py" in err


def test_without_any_file_the_way_to_one_is_shown(cli: Cli) -> None:
    assert "nexgate init" in cli("check")[2]


# --- version --------------------------------------------------------------------------------------


def test_version(cli: Cli) -> None:
    code, out, _ = cli("version")
    assert code == 0
    assert re.fullmatch(r"nexgate \d+\.\d+\.\d+\S*\n", out)
    code, more, _ = cli("version", "--verbose")
    assert code == 0
    assert more.startswith(out)
    assert "python 3." in more
    assert "pydantic " in more


def test_version_does_not_wait_for_the_data_plane() -> None:
    script = (
        "import sys\nfrom nexgate.cli import main\n"
        "try:\n    main(['version'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'asyncio', 'uvloop', 'nexgate.config', 'nexgate.routing', 'nexgate.gateway'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


# --- check ----------------------------------------------------------------------------------------


def test_check_of_a_good_file(cli: Cli) -> None:
    Path("gateway.toml").write_text(GOOD)
    assert cli("check") == (0, "gateway.toml is valid: 2 services, 4 routes\n", "")
    assert cli("check", "gateway.toml")[0] == 0


def test_check_of_a_bad_file_shows_line_source_caret_and_hint(cli: Cli) -> None:
    Path("gateway.toml").write_text(BAD)
    report = (
        'gateway.toml:5: error: routes[0].service = "user" names a service that does not exist\n'
        '    5 │ service = "user"\n'
        "      │           ^^^^^^\n"
        '      = did you mean "users"?\n'
        "\n"
        "1 problem in gateway.toml\n"
    )
    assert cli("check") == (ExitCode.NO, "", report)


def test_warnings_alone_are_good(cli: Cli) -> None:
    Path("gateway.toml").write_text('[services.a]\ninstances = ["http://h"]\n')
    code, out, err = cli("check")
    assert code == 0
    assert "is valid" in out
    assert "warning: services.a is not used by any route" in err
    assert "warning: there are no routes" in err


def test_check_for_scripts(cli: Cli) -> None:
    Path("gateway.toml").write_text(BAD)
    code, out, err = cli("check", "--format", "json")
    assert (code, err) == (ExitCode.NO, "")
    report = json.loads(out)
    assert report == {
        "valid": False,
        "problems": [
            {
                "path": "routes[0].service",
                "message": "names a service that does not exist",
                "line": 5,
                "column": 11,
                "value": '"user"',
                "hint": 'did you mean "users"?',
                "severity": "error",
                "file": "gateway.toml",
            }
        ],
    }
    Path("gateway.toml").write_text(GOOD)
    assert json.loads(cli("check", "--format", "json")[1]) == {"valid": True, "problems": []}


def test_check_prints_the_schema_without_a_file(cli: Cli) -> None:
    code, out, _ = cli("check", "--schema")
    assert code == 0
    assert json.loads(out)["title"] == "Nexgate configuration"


def test_check_reads_the_environment_and_does_not_show_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("gateway.toml").write_text('gateway.listen = "${WHERE}"\n')
    monkeypatch.setenv("WHERE", "hunter2")
    code, out, err = cli("check")
    assert code == ExitCode.NO
    assert '"${WHERE}"' in err
    assert "hunter2" not in out + err


def test_check_of_a_file_that_is_not_text(cli: Cli) -> None:
    Path("gateway.toml").write_bytes(b"\xff\xff")
    code, _, err = cli("check")
    assert code == ExitCode.NO
    assert "the file is not UTF-8" in err


def test_markup_and_terminal_codes_in_a_file_are_shown_as_they_are(cli: Cli) -> None:
    Path("gateway.toml").write_text('gateway.via = "[red]\\u001b[31m[/red]"\n')
    _, _, err = cli("check")
    assert "[red]" in err


PYTHON = """\
from nexgate import Gateway
gateway = Gateway()
gateway.route("/users/{id:int}", gateway.service("users", "http://127.0.0.1:9001"))
"""


def test_check_of_python(cli: Cli) -> None:
    Path("gateway.py").write_text(PYTHON)
    assert cli("check") == (0, "gateway.py is valid: 1 service, 1 route\n", "")
    Path("gateway.toml").write_text(GOOD)
    assert cli("check")[1].startswith("gateway.toml"), "the file is preferred"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("gateway = 5", "gateway.py"),
        ("1/0", "ZeroDivisionError"),
        ("def", "SyntaxError"),
        ("import nope_nope", "nope_nope"),
        (
            'from nexgate import Gateway\ngateway = Gateway()\ngateway.route("users", "http://h")',
            "is not a path template",
        ),
    ],
)
def test_a_mistake_in_python_is_no_traceback(cli: Cli, text: str, shown: str) -> None:
    Path("gateway.py").write_text(text)
    code, _, err = cli("check")
    assert code == ExitCode.NO
    assert shown in err


# --- routes ---------------------------------------------------------------------------------------


def test_routes_as_a_table(cli: Cli) -> None:
    Path("gateway.toml").write_text(GOOD)
    code, out, err = cli("routes")
    assert (code, err) == (0, "")
    for text in (
        "/users/{id:int}",
        "header X-Version is '2'",
        "header X-B is present",
        "header X-C is absent",
        "header X-D matches 'a+'",
        "service users",
        "*.example.com",
        "split users 75%, users2 25%",
        "redirect 308 /new",
        "respond 204",
    ):
        assert text in out


def test_routes_for_scripts(cli: Cli) -> None:
    Path("gateway.toml").write_text(GOOD)
    rows = json.loads(cli("routes", "--format", "json")[1])
    assert [row["does"] for row in rows] == [
        "service users",
        "split users 75%, users2 25%",
        "redirect 308 /new",
        "respond 204",
    ]
    assert rows[0] | {"conditions": []} == {
        "name": "user",
        "methods": ["GET"],
        "hosts": [],
        "path": "/users/{id:int}",
        "conditions": [],
        "priority": 0,
        "does": "service users",
    }


def test_routes_of_an_empty_and_of_a_bad_file(cli: Cli) -> None:
    Path("gateway.toml").write_text("")
    assert cli("routes")[:2] == (0, "there are no routes\n")
    Path("gateway.toml").write_text(BAD)
    code, out, err = cli("routes")
    assert (code, out) == (ExitCode.NO, "")
    assert "did you mean" in err


# --- explain --------------------------------------------------------------------------------------


def test_explain_a_match_and_why_not_the_others(cli: Cli) -> None:
    Path("gateway.toml").write_text(GOOD)
    fields = ("-H", "X-Version: 2", "-H", "X-B:", "--header", "X-D: aaa")
    code, out, err = cli("explain", "GET", "/users/42?a=1", *fields)
    assert (code, err) == (0, "")
    assert out.startswith("GET /users/42?a=1 → user  service users\n")
    assert "{id}  42" in out
    assert "not canary" in out
    assert "✗ host: " in out


def test_explain_a_predicate_that_failed(cli: Cli) -> None:
    Path("gateway.toml").write_text(GOOD)
    code, out, _ = cli("explain", "GET", "/users/42", "-H", "x-version: 1")
    assert code == ExitCode.NO
    assert "→ 404  no route" in out
    assert "✗ header x-version: is '1', not '2'" in out


def test_explain_a_method_that_is_not_allowed(cli: Cli) -> None:
    Path("gateway.toml").write_text('[[routes]]\npath = "/a"\nmethods = ["GET"]\nrespond = 200\n')
    code, out, _ = cli("explain", "POST", "/a")
    assert code == ExitCode.NO
    assert "→ 405  no route for this method; allowed are GET, HEAD" in out


def test_explain_a_host(cli: Cli) -> None:
    Path("gateway.toml").write_text(GOOD)
    code, out, _ = cli("explain", "GET", "https://x.example.com/canary/1")
    assert code == 0
    assert "→ canary" in out


def test_explain_a_path_that_is_refused(cli: Cli) -> None:
    Path("gateway.toml").write_text(GOOD)
    code, out, _ = cli("explain", "GET", "/a/..%2fb")
    assert code == ExitCode.NO
    assert "→ 400 " in out
    code, out, _ = cli("explain", "GET", "/a/..%2fb", "--format", "json")
    assert (code, json.loads(out)["status"]) == (ExitCode.NO, 400)


def test_explain_for_scripts(cli: Cli) -> None:
    Path("other.toml").write_text(GOOD)
    code, out, _ = cli("explain", "GET", "/alive", "-f", "other.toml", "--format", "json")
    answer = json.loads(out)
    assert code == 0
    assert answer["matched"]["path"] == "/alive"
    assert {c["name"] for c in answer["candidates"]} >= {"user", "canary"}
    assert all(c["reasons"] for c in answer["candidates"])
    code, out, _ = cli("explain", "GET", "/nope", "-f", "other.toml", "--format", "json")
    assert (code, json.loads(out)["status"]) == (ExitCode.NO, 404)


@pytest.mark.parametrize("field", ["nope", ": value", " : v"])
def test_explain_with_a_field_that_is_none(cli: Cli, field: str) -> None:
    Path("gateway.toml").write_text(GOOD)
    code, _, err = cli("explain", "GET", "/", "-H", field)
    assert code == ExitCode.USAGE
    assert "is not 'Name: value'" in err


def test_explain_with_a_bad_file(cli: Cli) -> None:
    Path("gateway.toml").write_text(BAD)
    assert cli("explain", "GET", "/")[0] == ExitCode.NO


# --- init -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "name"), [((), "gateway.toml"), (("--python",), "gateway.py")])
def test_init_writes_what_check_accepts(cli: Cli, option: tuple[str, ...], name: str) -> None:
    code, out, _ = cli("init", *option)
    assert code == 0
    assert out == f"wrote {name}\nnext: nexgate check and nexgate run\n"
    assert name in DEFAULT_NAMES
    code, out, err = cli("check")
    assert (code, err) == (0, "")
    assert cli("explain", "GET", "/users/42")[0] == 0


def test_init_into_a_directory_that_is_not_there_yet(cli: Cli) -> None:
    code, out, _ = cli("init", "a/b")
    assert code == 0
    assert "nexgate run a/b/gateway.toml" in out
    assert cli("check", "a/b/gateway.toml")[0] == 0


@pytest.mark.parametrize("option", [(), ("--python",)])
def test_init_never_overwrites(cli: Cli, option: tuple[str, ...]) -> None:
    name = "gateway.py" if option else "gateway.toml"
    Path(name).write_text("mine")
    code, _, err = cli("init", *option)
    assert code == ExitCode.USAGE
    assert "stays as it is" in err
    assert Path(name).read_text() == "mine"


def test_every_commented_line_of_the_first_file_works_when_uncommented(cli: Cli) -> None:
    """What a template suggests must be true."""
    from nexgate.cli.init import TOML

    lines = TOML.split("\n")
    uncommented = [
        re.sub(r"^# (?=(?:[a-z_]+ = |\[|    |\]))", "", line) for line in lines if line != "#"
    ]
    text = "\n".join(uncommented).replace('instances = ["http://127.0.0.1:9001"]\n', "", 1)
    Path("gateway.toml").write_text(text)
    os.environ["USERS_TOKEN"] = "t"
    try:
        code, _, err = cli("check")
    finally:
        del os.environ["USERS_TOKEN"]
    assert (code, err) == (0, "")
    assert "# " in TOML
    assert text.count("\n# ") < TOML.count("\n# ") - 8


# --- run and demo ---------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    def run(*args: Any) -> int:
        calls.append(args)
        return 0

    monkeypatch.setattr(_backend, "run_gateway", run)
    monkeypatch.setattr(_backend, "run_demo", run)
    return calls


def test_run_passes_the_options_on(cli: Cli, started: list[Any]) -> None:
    Path("gateway.toml").write_text(GOOD)
    assert cli("run")[0] == 0
    options = "--listen :1 --listen [::1]:2 --workers auto --log-level debug --access-log stdout"
    assert cli("run", "gateway.toml", *options.split(), "--no-reload")[0] == 0
    assert cli("run", "--workers", "3")[0] == 0
    assert started == [
        (Path("gateway.toml"), Overrides()),
        (
            Path("gateway.toml"),
            Overrides(
                listen=(":1", "[::1]:2"),
                workers="auto",
                log_level="debug",
                access_log="stdout",
                reload=False,
            ),
        ),
        (Path("gateway.toml"), Overrides(workers=3)),
    ]


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (("--workers", "many"), "--workers"),
        (("--workers", "0"), "must be from 1 to 1024"),
        (("--workers", "٣"), "--workers"),
        (("--listen", "8000"), 'write ":8000"'),
        (("--listen", ":1", "--listen", ":1"), "is there twice"),
        (("--log-level", "loud"), "--log-level"),
        (("--access-log", ""), "--access-log"),
    ],
)
def test_run_with_options_that_make_no_sense(
    cli: Cli, started: list[Any], argv: tuple[str, ...], shown: str
) -> None:
    Path("gateway.toml").write_text(GOOD)
    code, _, err = cli("run", *argv)
    assert code == ExitCode.USAGE
    assert shown in err
    assert started == []


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (OSError(98, "Address already in use"), ExitCode.FAILED, "Address already in use"),
        (FileNotFoundError(2, "No such file", "/x"), ExitCode.FAILED, "/x: No such file"),
        (NexgateError("[bold]no[/bold]"), ExitCode.FAILED, "[bold]no[/bold]"),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, ""),
    ],
)
def test_what_run_raises_is_a_message_and_a_code(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, shown: str
) -> None:
    def run(*_: Any) -> int:
        raise error

    monkeypatch.setattr(_backend, "run_gateway", run)
    Path("gateway.toml").write_text(GOOD)
    got, out, err = cli("run")
    assert (got, out) == (code, "")
    assert shown in err


def test_a_defect_of_ours_keeps_its_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any) -> int:
        raise RuntimeError("a defect")

    monkeypatch.setattr(_backend, "run_gateway", run)
    Path("gateway.toml").write_text(GOOD)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["run"])


def test_the_code_of_run_is_the_code_of_the_command(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_backend, "run_gateway", lambda *_: 3)
    Path("gateway.toml").write_text(GOOD)
    assert cli("run")[0] == 3


def test_demo_passes_the_options_on(cli: Cli, started: list[Any]) -> None:
    for argv in ((), ("--port", "0", "--for", "10s"), ("--for", "2"), ("--for", "0.5")):
        assert cli("demo", *argv)[0] == 0
    assert started == [(8000, None), (0, 10.0), (8000, 2.0), (8000, 0.5)]
    assert cli("demo", "--for", "soon")[0] == ExitCode.USAGE


# --- the process ----------------------------------------------------------------------------------


def process(*argv: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "nexgate", *argv],
        capture_output=True,
        env={**os.environ, **environ},
        check=False,
        timeout=60,
    )


def test_the_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(GOOD)
    bad.write_text(BAD)
    assert process("check", str(good)).returncode == 0
    assert process("check", str(bad)).returncode == 1
    assert process("check", "nope").returncode == 2


def test_a_terminal_without_unicode_gets_a_report_all_the_same(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(BAD)
    done = process("check", str(bad), PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert b"did you mean" in done.stderr
    assert b"Traceback" not in done.stderr


def test_ci_logs_get_no_colours_in_help() -> None:
    assert b"\x1b" not in process("--help", GITHUB_ACTIONS="true").stdout


def test_a_terminal_gets_colours_unless_it_does_not_want_them(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(BAD)
    assert b"\x1b" in _on_terminal("check", str(bad), NO_COLOR="")
    assert b"\x1b[1;31m" not in _on_terminal("check", str(bad), NO_COLOR="1")


def _on_terminal(*argv: str, **environ: str) -> bytes:
    pty = pytest.importorskip("pty")
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "nexgate", *argv],
        stdout=child,
        stderr=child,
        env={**os.environ, "TERM": "xterm-256color", **environ},
    )
    os.close(child)
    shown = b""
    try:
        while piece := os.read(parent, 65536):
            shown += piece
    except OSError:
        pass  # Linux ends the reading of a closed terminal with EIO
    process.wait(60)
    os.close(parent)
    return shown


# --- the reference page ---------------------------------------------------------------------------

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"


def test_the_page_has_every_command_option_and_exit_code() -> None:
    from typer.main import get_command

    from nexgate.cli._app import app

    page = PAGE.read_text("utf-8")
    group: Any = get_command(app)
    assert set(group.commands) == set(COMMANDS)
    for name, command in group.commands.items():
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        members = getattr(command, "commands", {})
        for member in members:
            assert f"`nexgate {name} {member}" in section, f"{name} {member}"
        every = [*command.params, *(p for each in members.values() for p in each.params)]
        for parameter in every:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                if option not in ("--help", "-h"):
                    assert f"`{option}" in section or f"{option}`" in section, f"{name} {option}"
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert codes == {int(code) for code in ExitCode}


def test_the_example_of_the_page_is_what_check_prints(cli: Cli) -> None:
    blocks = dict(re.findall(r"```(toml|text)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))
    Path("gateway.toml").write_text(blocks["toml"])
    code, _, err = cli("check")
    assert code == ExitCode.NO
    assert err == blocks["text"]
