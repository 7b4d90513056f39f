"""A secret is seen by who asks for it, and by nobody else."""

from __future__ import annotations

import pickle
from copy import deepcopy

import pytest

from nexgate.config import FieldValue, SecretText, Section
from nexgate.policies.headers.config import HeaderRules


class Holder(Section):
    """A section with a secret."""

    token: FieldValue
    """A secret."""


def test_nothing_but_reveal_shows_a_secret() -> None:
    secret = SecretText("hunter2")
    rules = HeaderRules.model_validate({"set": {"Authorization": "hunter2"}})
    shown = [
        str(secret),
        repr(secret),
        f"{secret}",
        f"{secret!r:>30}",
        "%s" % secret,  # noqa: UP031  # this way of formatting must not show it either
        repr(rules),
        str(rules),
        rules.model_dump_json(),
        repr(rules.model_dump()),
        repr([secret]),
    ]
    assert not [text for text in shown if "hunter2" in text]
    assert secret.reveal() == "hunter2"
    assert rules.set["Authorization"].reveal() == "hunter2"


def test_secrets_compare_by_what_they_hold() -> None:
    assert SecretText("a") == SecretText("a") != SecretText("b")
    assert SecretText("a") != "a"
    assert len({SecretText("a"), SecretText("a")}) == 1
    assert len(SecretText("abc")) == 3
    assert deepcopy(SecretText("a")) == SecretText("a")
    assert pickle.loads(pickle.dumps(SecretText("a"))) == SecretText("a")


@pytest.mark.parametrize(
    "value", ["a\r\nX: 1", "a\0", "a\x7f", "\x1b[0m", " a", "a\t", "é", "\ud800", 5, None]
)
def test_a_bad_field_value_is_refused_without_being_repeated(value: object) -> None:
    with pytest.raises(ValueError) as caught:
        Holder.model_validate({"token": value})
    assert repr(value) not in str(caught.value)
    assert caught.value.errors()[0]["ctx"]["finding"].is_secret  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", ["", "a", "a b\tc", "Bearer abc==", '"q"'])
def test_a_good_field_value_is_kept(value: str) -> None:
    assert Holder.model_validate({"token": value}).token.reveal() == value
