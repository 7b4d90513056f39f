"""``${NAME}``: what it becomes, and that no report shows it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexgate.config import Flag, FromEnv, Integer, InvalidConfig, Number, Section, parse
from nexgate.config.environment import substitute
from nexgate.config.problems import render
from nexgate.gateway_config import GatewayConfig, check_text, load_text

ENV = {"A": "one", "B": "two", "EMPTY": "", "DOLLAR": "${A}", "N": "8", "T": "true", "F": "0.5"}


class Sample(Section):
    """One field of each kind."""

    text: str = ""
    """Text."""
    number: Integer = 0
    """A number."""
    ratio: Number = 0.0
    """A ratio."""
    flag: Flag = False
    """A flag."""


@pytest.mark.parametrize(
    ("written", "becomes"),
    [
        ("plain", "plain"),
        ("$A", "$A"),
        ("${A}", "one"),
        ("<${A}${B}>", "<onetwo>"),
        ("${NONE:-x}", "x"),
        ("${NONE:-}", ""),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY}", ""),
        ("${A:-x}", "one"),
        ("${NONE:-a:-b $c}", "a:-b $c"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("${DOLLAR}", "${A}"),
    ],
)
def test_a_variable_is_replaced_once(written: str, becomes: str) -> None:
    done = substitute({"x": [{"y": written}]}, ENV)
    assert done.tree == {"x": [{"y": becomes}]}
    assert done.findings == []


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("${NONE}", "needs the environment variable NONE, which is not set"),
        ("${A", "has a ${ that is not a variable"),
        ("${}", "has a ${ that is not a variable"),
        ("${A-x}", "has a ${ that is not a variable"),
        ("${A:?x}", "has a ${ that is not a variable"),
        ("${1A}", "has a ${ that is not a variable"),
        ("${é}", "has a ${ that is not a variable"),
    ],
)
def test_what_cannot_be_replaced_is_a_problem(written: str, message: str) -> None:
    done = substitute({"x": {"y": written}}, ENV)
    assert [(f.loc, f.message) for f in done.findings] == [(("x", "y"), message)]
    assert done.findings[0].hint


def test_keys_are_left_alone() -> None:
    assert substitute({"${A}": 1}, ENV).tree == {"${A}": 1}


def test_only_a_whole_variable_stands_for_a_number() -> None:
    text = 'number = "${N}"\nflag = "${T}"\nratio = "${F}"\ntext = "${N}"'
    sample = parse(text, Sample, env=ENV)
    assert (sample.number, sample.flag, sample.ratio, sample.text) == (8, True, 0.5, "8")
    assert type(substitute({"a": "${N}"}, ENV).tree["a"]) is FromEnv
    assert type(substitute({"a": "${N}0"}, ENV).tree["a"]) is str
    for wrong in ('number = "8"', 'number = "${N}0"', 'flag = "true"', 'number = "${A}"'):
        with pytest.raises(InvalidConfig):
            parse(wrong, Sample, env=ENV)


def test_an_unset_variable_is_reported_once_and_with_its_line() -> None:
    text = '[gateway]\nlisten = "${ADDRESS}"\nworkers = "${WORKERS}"\n'
    with pytest.raises(InvalidConfig) as caught:
        load_text(text, filename="g.toml", env={})
    assert [(p.line, p.path, p.value) for p in caught.value.problems] == [
        (2, "gateway.listen", '"${ADDRESS}"'),
        (3, "gateway.workers", '"${WORKERS}"'),
    ]
    assert caught.value.problems[0].hint == "set it, or give a default: ${ADDRESS:-…}"


SECRET = "s3cr3t-Wert"
PLACES = [
    'listen = "{}"\n[gateway]',
    '[gateway]\nlisten = "{}"',
    '[gateway]\nlisten = ["{}", "{}"]',
    '[gateway]\nworkers = "{}"',
    '[gateway]\nlog_level = "{}"',
    '[gateway]\nvia = "{} {}"',
    '[gateway]\ntrusted_proxies = ["{}"]',
    '[gateway]\nfilters = ["{}"]',
    '[gateway]\ntimeouts = {{ head = "{}" }}',
    '[gateway]\ntimeouts = "{}"',
    '[gateway]\nlimits = {{ max_head_bytes = "{}" }}',
    '[gateway]\nlisten = [{{ address = ":1", tls = {{ certificate = "{}", key = "{}" }} }}]',
    '[services.a]\ninstances = ["{}"]',
    '[services.a]\ninstances = ["http://{}:{}@host"]',
    '[services.a]\ninstances = ["http://h/{}"]',
    '[services.a]\ninstances = ["http://h", "http://h"]\nbalancer = "{}"',
    '[services.a]\ninstances = ["http://h"]\nhealth = "{}"',
    '[services.a]\ninstances = ["http://h"]\nhealth = {{ path = "/", status = "{}" }}',
    '[services.a]\ninstances = ["http://h"]\nhost = "{}/"',
    '[services.a]\ninstances = ["http://h"]\nbalancer = {{ kind = "consistent-hash", key = "{}" }}',
    '[[routes]]\npath = "{}"\nservice = "{}"',
    '[[routes]]\npath = "/{{{}}}"\nrespond = 200',
    '[[routes]]\npath = "/x"\nrewrite = "/{{{}}}"\nservice = "x"',
    '[[routes]]\npath = "/{}/x"\nstrip_prefix = "/y"\nservice = "x"',
    '[[routes]]\npath = "/x"\nstrip_prefix = "/{}"\nservice = "x"',
    '[[routes]]\npath = "/x"\nredirect = "{}"',
    '[[routes]]\npath = "/x"\nredirect = "/{{{}}}"',
    '[[routes]]\npath = "/x"\nmethods = ["{}"]\nhost = ["{} {}"]',
    '[[routes]]\npath = "/x"\nheaders = {{ "{}" = {{ regex = "({}" }} }}',
    '[[routes]]\npath = "/x"\nname = "{}"\nrespond = 200\n[[routes]]\npath = "/"\nname = "{}"',
    '[[routes]]\npath = "/x"\nrequest_headers = {{ set = {{ A = "{}\\n" }} }}',
    '[[routes]]\npath = "/x"\nrequest_headers = {{ remove = ["{} "] }}',
    '[[routes]]\npath = "/x"\nrespond = {{ status = "{}", body = "{}", content_type = "{}é" }}',
    '[[routes]]\npath = "/x"\nunknown = "{}"\nother = {{ a = "{}" }}',
    'unknown = ["{}"]',
]


@pytest.mark.parametrize("place", PLACES)
def test_no_report_shows_what_the_environment_holds(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    for text in (SECRET, f"x{SECRET}", f"{SECRET}:8000", f"5{SECRET}", SECRET.upper()):
        env = {"KEY": text}
        document = place.replace('"{}"', '"${{KEY}}"').replace("{}", "${{KEY}}").format()
        report = check_text(document, filename="g.toml", env=env)
        render(report.problems, Console())
        shown = [
            capsys.readouterr().out,
            str(InvalidConfig(report.problems)),
            json.dumps([problem.as_dict() for problem in report.problems]),
            repr(report.problems),
        ]
        if report.config is None:
            assert report.problems
        leaks = [line for s in shown for line in s.split("\n") if SECRET.lower() in line.lower()]
        assert leaks == []


@given(st.text(min_size=6, max_size=20), st.sampled_from(PLACES))
@settings(max_examples=200, deadline=None)
def test_no_hint_repeats_any_value_of_the_environment(value: str, place: str) -> None:
    secret = f"{value}-{SECRET}"
    document = place.replace('"{}"', '"${{KEY}}"').replace("{}", "${{KEY}}").format()
    report = check_text(document, filename="g.toml", env={"KEY": secret})
    assert SECRET not in str(InvalidConfig(report.problems))


def test_a_report_says_that_a_value_comes_from_the_environment() -> None:
    report = check_text('gateway.listen = "${KEY}"', filename="", env={"KEY": "8000"})
    (problem,) = report.problems
    assert problem.statement == 'gateway.listen = "${KEY}" is not an address'
    assert problem.hint == "the value comes from the environment and is not shown"


def test_a_hint_about_a_key_needs_no_hiding() -> None:
    report = check_text('gateway.listten = "${KEY}"', filename="", env={"KEY": "8000"})
    assert report.problems[0].hint == 'did you mean "listen"?'


def test_a_literal_secret_is_not_shown_either() -> None:
    text = (
        '[services.a]\ninstances = ["http://user:hunter2@h"]\n'
        '[[routes]]\npath = "/"\nservice = "a"\nauthh = { secret = "hunter2" }\n'
        'request_headers = { set = { Authorization = "Basic hunter2 " }, sett = { B = "hunter2" } }'
    )
    with pytest.raises(InvalidConfig) as caught:
        load_text(text, filename="g.toml", env={})
    assert len(caught.value.problems) == 4
    assert "hunter2" not in repr(caught.value.problems)


def test_a_broken_line_that_may_hold_a_secret_is_not_quoted() -> None:
    with pytest.raises(InvalidConfig) as caught:
        load_text('[auth]\njwt_secret = "hunter2', filename="g.toml", env={})
    assert "hunter2" not in repr(caught.value.problems)


def test_the_model_keeps_what_the_environment_held() -> None:
    text = '[[routes]]\npath="/"\nrespond=200\nrequest_headers={ set = { A = "Bearer ${KEY}" } }'
    text = text.replace("request_headers", "response_headers")
    config = load_text(text, filename="g.toml", env={"KEY": SECRET})
    assert isinstance(config, GatewayConfig)
    rules = config.routes[0].response_headers
    assert rules is not None
    assert rules.set["A"].reveal() == f"Bearer {SECRET}"
    assert SECRET not in repr(config)
