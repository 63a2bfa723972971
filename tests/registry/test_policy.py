"""A gate policy is right, or every one of its mistakes is reported at once."""

import json
import re
from pathlib import Path

import pytest

from medmim.errors import UserError
from medmim.registry import policy


@pytest.mark.parametrize("name", policy.shipped())
def test_every_shipped_policy_loads(name: str) -> None:
    assert policy.load(name).min_gain


def test_every_mistake_of_a_policy_is_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("min_gains: {}\nmin_patients: 5\nmax_unparsed: 7\nmetric: luck\n")
    with pytest.raises(UserError) as error:
        policy.load(str(path))
    text = str(error.value)
    for message in ("did you mean 'min_gain'", "min_gain: missing", "min_patients", "max_unparsed", "metric"):
        assert message in text
    assert str(path) in text


def test_a_value_that_json_has_not_is_a_mistake_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("min_gain: {held_in: !!set {a, b}}\n", encoding="utf-8")
    with pytest.raises(UserError, match="1 problem"):
        policy.load(str(path))


def test_a_policy_that_does_not_exist_names_the_shipped_ones() -> None:
    with pytest.raises(UserError, match="no gate policy 'defalt'") as error:
        policy.load("defalt")
    assert "default" in error.value.fix


def test_a_policy_in_the_user_s_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("min_gain: {held_in: 0.5}\n")
    assert policy.load("~/mine.yaml").min_gain == {"held_in": 0.5}


@pytest.mark.parametrize("rule", ["min_gain", "max_regression", "blind_gap", "min_swap"])
@pytest.mark.parametrize("group", ["helt_in", "abilty:*", "ability:tempral", "source:", "task:", "accuracy"])
def test_a_limit_of_a_group_that_no_bench_has_is_refused(rule: str, group: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    limits = {"min_gain": {"held_in": 0.0}, rule: {group: 0.0}}
    path.write_text(json.dumps(limits), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(f"no such group: {group}")):
        policy.load(str(path))


@pytest.mark.parametrize(
    "group", ["held_out", "ability:*", "ability:temporal", "source:mine", "source:*", "task:clean", "task:*", "*"]
)
def test_a_limit_of_a_group_that_a_bench_may_have_is_taken(group: str) -> None:
    assert policy.Policy(min_gain={group: 0.0}).min_gain == {group: 0.0}
