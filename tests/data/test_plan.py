"""The plan: the numbers of the build, from tables alone."""

import json
import random
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medmim.data import build, erased, plan, reading
from medmim.data.sources import phantom
from medmim.data.sources.source import Source
from medmim.errors import UserError
from medmim.recipe import loading
from medmim.recipe.schema import Recipe
from medmim.run.workspace import workspace
from medmim.sample import BadRow, Sample
from tests.support import real_studies as drawn


def recipe(**data: Any) -> Recipe:
    return loading.validate({"name": "test", "data": {"source": "phantom", "patients": 90, **data}}, "test")


QUOTAS = {"quotas": {"temporal": 20, "composed": None}, "total": 60}


@pytest.mark.parametrize("more", [{}, QUOTAS], ids=["all", "quotas"])
def test_a_plan_counts_what_the_build_then_makes(tmp_path: Path, more: dict[str, Any]) -> None:
    ws, given = workspace(str(tmp_path)), recipe(rows_only=True, **more)
    planned = plan.of(given, ws)
    built = build.run(given, ws).facts
    assert planned["rows"] == built["rows"]
    assert {name: n for name, n in planned["by_split"].items() if n} == built["by_split"]
    assert {name: sum(counts.values()) for name, counts in planned["by_ability"].items()} == built["by_ability"]
    (source,) = planned["sources"]
    assert source["name"] == "phantom" and source["patients"] >= built["patients"] == 90
    assert sum(kind["balanced"] for kind in source["types"]) == sum(built["balanced"].values()) > 0
    over = Counter[str]()
    for kind in source["types"]:
        over[kind["ability"]] += kind["over_quota"]
    assert +over == Counter(built.get("over_quota", {}))
    if more:
        assert planned["by_ability"]["temporal"]["train"] == 20
        assert planned["by_ability"]["composed"]["train"] <= 40
        assert built["over_quota"]["temporal"] > 0


def test_a_plan_opens_no_picture_and_leaves_nothing_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(entry: Any) -> Source:
        def read(path: str) -> bytes:
            raise AssertionError(f"{path} was read")

        return Source(read, studies=phantom.patients(60, 0), families=phantom.FAMILIES)

    monkeypatch.setattr(phantom, "load", load)
    ws = workspace(str(tmp_path))
    assert plan.of(recipe(), ws)["rows"] > 0
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_what_is_bad_missing_or_without_words_is_counted_by_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = drawn.lumiere(random.Random(1), 40)  # noqa: S311  test records
    bad = [BadRow("ratings.csv", 3, "Patient-002", "two ratings of one week")]
    families = ("which_sequence", "extent_of_resection", "tumor_course")
    source = Source(lambda _: b"", studies, None, families, bad, ["gone.nii.gz"], {"skipped": {"no rating": 4}})
    monkeypatch.setattr(phantom, "load", lambda entry: source)
    strict, published = (plan.of(recipe(form=form), workspace(str(tmp_path))) for form in ("strict", "published"))
    (first,), (second,) = strict["sources"], published["sources"]
    for one in (first, second):
        assert one["quarantined"] == {"two ratings of one week": 1}
        assert (one["missing_images"], one["skipped"]) == (1, {"no rating": 4})
        assert (one["studies"], one["patients"]) == (len(studies), 40)
        assert one["images"] == len({s.image for s in studies})
    kinds = {kind["family"]: kind for kind in second["types"]}
    responses = [s for s in studies if s.sequence == "CT1" and "response" in (s.rating or "") and s.changes]
    assert kinds["tumor_course"]["unworded"] == len(responses) > 0
    assert {kind["family"]: kind["unworded"] for kind in first["types"]} == dict.fromkeys(families, 0)


def test_ready_questions_are_counted_and_have_no_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ("a.png", "b.png")
    ready = [
        Sample("temporal", "frames", "videos", "train", False, (f"v{i}",), paths, paths, f"Which {i}?", (), "a")
        for i in range(7)
    ]
    source = Source(lambda _: b"", samples=ready)
    monkeypatch.setattr(phantom, "load", lambda entry: source)
    planned = plan.of(recipe(quotas={"temporal": 2}), workspace(str(tmp_path)))
    assert planned["by_ability"] == {"temporal": {"train": 7, "dev": 0, "test": 0}}
    (one,) = planned["sources"]
    assert (one["studies"], one["patients"], one["images"]) == (0, 7, 2)
    assert [(kind["family"], kind["train"], kind["over_quota"]) for kind in one["types"]] == [("frames", 7, 0)]


def test_erased_patients_are_in_no_plan(tmp_path: Path) -> None:
    ws, given = workspace(str(tmp_path)), recipe()
    (before,) = plan.of(given, ws)["sources"]
    erased.add(ws.store, [reading.of(given.data).load()[0].studies[0].patient])  # type: ignore[index]
    (after,) = plan.of(given, ws)["sources"]
    assert after["patients"] == before["patients"] - 1


def test_a_family_of_which_nothing_is_left_is_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies = [replace(s, rating="complete response") for s in drawn.lumiere(random.Random(2), 5)]  # noqa: S311
    source = Source(lambda _: b"", studies, families=("tumor_course",))
    monkeypatch.setattr(phantom, "load", lambda entry: source)
    (one,) = plan.of(recipe(form="published"), workspace(str(tmp_path)))["sources"]
    (kind,) = one["types"]
    assert (kind["ability"], kind["family"], kind["train"], kind["test"]) == ("temporal", "tumor_course", 0, 0)
    assert kind["unworded"] > 0


def test_the_command_prints_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from medmim.cli.main import main

    def call(*more: str) -> str:
        """What it prints; the hint is the same call, so it must keep the settings."""
        sets = ("--set", "data.patients=60", "--set", "data.quotas={temporal: 5}")
        monkeypatch.setattr(sys, "argv", ["medmim", "data", "plan", "demo", *sets, *more, "--home", str(tmp_path)])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        printed = capsys.readouterr()
        assert more or "data build demo --set data.patients=60 --set 'data.quotas={temporal: 5}'" in printed.err
        return printed.out

    planned = json.loads(call("--json"))
    assert planned["by_ability"]["temporal"]["train"] == 5 and planned["form"] == "strict"
    monkeypatch.setenv("COLUMNS", "80")
    printed = call()
    assert f"{planned['rows']:,} rows planned" in " ".join(printed.split())
    for kind in planned["sources"][0]["types"]:
        assert kind["family"] in printed
    assert "phantom forbids: nothing" in printed and "more than the quota: " in printed


def test_a_plan_says_that_the_build_would_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = [BadRow("t.csv", number, "date", f"'{number}/1/24' is no date") for number in range(90)]
    source = Source(lambda _: b"", phantom.patients(60, 0), families=phantom.FAMILIES, bad=bad)
    monkeypatch.setattr(phantom, "load", lambda entry: source)
    planned = plan.of(recipe(), workspace(str(tmp_path)))
    assert planned["sources"][0]["quarantined"] == {"'0/1/24' is no date, or the like": 90}
    with pytest.raises(UserError) as error:
        build.make([source], recipe(rows_only=True).data, tmp_path / "built")
    assert planned["stops"] == [error.value.fact, error.value.reason, error.value.fix]
    assert error.value.reason == "90 x '0/1/24' is no date, or the like"
    assert plan.of(recipe(max_bad_fraction=0.9), workspace(str(tmp_path)))["stops"] == []
    gone = Source(lambda _: b"", [], missing=["a.png"])
    monkeypatch.setattr(phantom, "load", lambda entry: gone)
    assert plan.of(recipe(), workspace(str(tmp_path)))["stops"][0] == "there is nothing to ask"


def test_a_pool_that_there_is_not_is_refused_before_any_picture_is_read(tmp_path: Path) -> None:
    def read(path: str) -> bytes:
        raise AssertionError(f"{path} was read")

    given = recipe(sized_for={"phantoms": 64})
    source = Source(read, phantom.patients(60, 0), families=phantom.FAMILIES)
    with pytest.raises(UserError, match="phantoms"):
        build.make([source], given.data, tmp_path / "built")
    with pytest.raises(UserError, match="phantoms"):
        plan.of(given, workspace(str(tmp_path)))
