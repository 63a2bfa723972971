"""Evidence is computed again: what a candidate claims promotes nothing, whoever wrote it and wherever it lies."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from medmim import store
from medmim.bench import rescore
from medmim.errors import REFUSED, Refused, UserError
from medmim.lvlm import checkpoint
from medmim.recipe.schema import Bench, Recipe
from medmim.registry import approval, decisions, evidence, gate, lookup, policy
from medmim.registry.decisions import Decision
from medmim.run.workspace import Workspace, workspace
from medmim.store import Artifact, open_store
from medmim.terms import APACHE
from medmim.tracking import Version
from tests.support.evidence import ASKED, samples
from tests.support.registry import digest_of, model

CANDIDATES = "medmim-demo-candidate"


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:  # no evidence is in MLflow but for two tags
    return workspace(tmp_path / "home")


def publish(ws: Workspace, kind: str, content: Mapping[str, Any], record: Mapping[str, Any] | None = None) -> Artifact:
    """Publish files as anybody who may write into the store can."""
    folder = ws.home / "forged"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, value in content.items():
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return store.publish(folder, ws.store, kind, {}, record or {"terms": APACHE.as_dict()})


def decided(ws: Workspace, scores: Artifact, holder: Decision | None = None, **forged: Any) -> str:
    """The gate's decision by what the scores say, changed as a forger likes; gives its URI."""
    document = gate.decide(policy.load("default"), json.loads(store.read_file(scores, "scores.json")), holder)
    return publish(ws, "decision", {gate.FILE: gate.text(document | {"bench": scores.digest} | forged)}).uri


def check(ws: Workspace, name: str, uri: str, holder: Decision | None = None, ref: str = "") -> Any:
    tags = {lookup.DIGEST: digest_of(name), approval.VERDICT: "promoted", approval.EVIDENCE: uri}
    return evidence.check(ws, CANDIDATES, Version("1", tags, 0, "", ""), model(ws, name), holder, ref)


def refused(ws: Workspace, name: str, uri: str, ref: str = "") -> str:
    with pytest.raises(Refused) as caught:
        check(ws, name, uri, ref=ref)
    assert caught.value.exit_code == REFUSED
    return "\n".join([str(caught.value), *caught.value.problems])


def rewritten(ws: Workspace, scores: Artifact, change: Callable[[dict[str, Any]], Any]) -> Artifact:
    """The scores, changed, with their recipe."""
    written = json.loads(store.read_file(scores, "scores.json"))
    change(written)
    record = json.loads(open_store(ws.store).read(f"bench/{scores.digest}/{store.PROVENANCE}"))
    return publish(ws, "bench", {"scores.json": written}, record)


@pytest.mark.parametrize(("protocol", "champion"), [("generate", ""), ("both", "fair")])
def test_honest_evidence_is_what_the_gate_decided(
    ws: Workspace, scored: Any, recipe: Recipe, protocol: str, champion: str
) -> None:
    settings = ASKED.model_copy(update={"protocol": protocol})
    scores = scored(ws, "good", champion, settings, recipe)
    holder = None
    if champion:
        one = Decision("promoted", "1", digest_of(champion), model(ws, champion).uri)
        holder = decisions.append(ws, recipe.register_.model, lambda _: one)
    made = gate.run(recipe, ws, scores.uri)
    assert made.facts["decision"] == "promoted", made.facts["reasons"]
    found = check(ws, "good", made.uri, holder)
    assert (found.decision.digest, found.bench.digest) == (made.digest, scores.digest)


def test_scores_are_those_of_the_bench_and_of_no_number_in_it(ws: Workspace, scored: Any) -> None:
    scores = scored(ws, "fair")
    written = json.loads(store.read_file(scores, "scores.json"))
    computed = rescore.rescore(ws, scores)
    assert {key: written[key] for key in computed} == computed and rescore.differing(written, computed) == []
    emptied = rewritten(ws, scores, lambda said: said.update(leaderboard=[], differences=[], comparable=False))
    assert rescore.rescore(ws, emptied) == computed
    assert len(rescore.differing({**written, "leaderboard": []}, computed)) == len(computed["leaderboard"])
    row = {**written["leaderboard"][0], "value": written["leaderboard"][0]["value"] + 1e-5}
    (said,) = rescore.differing({**written, "leaderboard": [row, *written["leaderboard"][1:]]}, computed)
    assert said.startswith("leaderboard, tuned held_in accuracy, value: ")


def test_a_decision_that_its_scores_do_not_give_is_refused_with_the_rules_that_failed(
    ws: Workspace, scored: Any
) -> None:
    said = refused(ws, "blind", decided(ws, scored(ws, "blind"), decision="promoted"))
    assert "policy default, it is refused" in said and "held_in: +0.0 points over base" in said
    assert "--despite-gate" in said
    said = refused(ws, "good", decided(ws, scored(ws, "good"), opponent={"role": "base", "digest": "x"}))
    assert "opponent: {'digest': 'x', 'role': 'base'} recorded" in said


def _better(written: dict[str, Any]) -> None:
    for row in written["leaderboard"]:
        if row["model"] == "tuned":
            row.update(value=1.0, low=1.0, high=1.0, gap=0.5, gap_low=0.4, swap=1.0, swap_low=1.0, blind=0.5)
    for row in written["differences"]:
        row.update(value=0.5, low=0.4, high=0.6)


def test_scores_that_their_answers_do_not_give_are_refused_with_the_numbers(ws: Workspace, scored: Any) -> None:
    forged = rewritten(ws, scored(ws, "blind"), _better)
    uri = decided(ws, forged)
    assert gate.read(ws, uri)["decision"] == "promoted"
    said = refused(ws, "blind", uri)
    assert "leaderboard, tuned held_in accuracy, value: 1.0 recorded, 0.5 computed" in said
    assert "differences, base held_in accuracy, low: 0.4 recorded, " in said


ODD = (None, 5, "another", [], {}, [None], [{}], {"a": 1}, 10**400, float("nan"))


def _anywhere(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all parts of a document, of each list to its first one."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, part in inside:
        yield (*path, key)
        yield from _anywhere(part, (*path, key))


def _replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = part = copy.deepcopy(document)
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return changed


def test_whatever_stands_in_scores_is_told_and_no_fault_of_ours(ws: Workspace, scored: Any) -> None:
    scores = scored(ws, "good")
    written = json.loads(store.read_file(scores, "scores.json"))
    computed = rescore.rescore(ws, scores)
    for path in [path for path in _anywhere(written) if path[0] in ("leaderboard", "differences", "comparable")]:
        for odd in ODD:
            found = rescore.differing(_replaced(written, path, odd), computed)
            assert found or path[-1] not in (*rescore._KEYS, "group", "metric", "value", "low"), (path, odd)
    twice = {**written, "leaderboard": [{**written["leaderboard"][0], "value": 1.0}, *written["leaderboard"]]}
    assert rescore.differing(twice, computed) == ["leaderboard: not a table, or one with a row twice"]


def test_no_file_of_the_promoters_machine_is_read_for_a_task(ws: Workspace, scored: Any, tmp_path: Path) -> None:
    (tmp_path / "held_in.yaml").write_text("secret: of the promoter")
    scores = scored(ws, "good")
    asked = {"recipe": {"bench": {"tasks": [str(tmp_path / "held_in.yaml"), "held_out"]}}}
    forged = publish(ws, "bench", {"scores.json": json.loads(store.read_file(scores, "scores.json")) | {"a": 1}}, asked)
    assert "a file of some machine" in refused(ws, "good", decided(ws, forged))


def _answers(ws: Workspace, scores: Artifact, change: Callable[[list[dict[str, Any]]], Any]) -> Artifact:
    """The scores with other answers of the tuned model, as the bench would score what they claim."""

    def changed(written: dict[str, Any]) -> None:
        for probe, digest in written["answers"]["tuned"].items():
            text = open_store(ws.store).read(f"answers/{digest}/answers.jsonl").decode()
            rows = [json.loads(line) for line in text.splitlines()]
            change(rows)
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            written["answers"]["tuned"][probe] = publish(ws, "answers", {"answers.jsonl": lines}).digest
        _better(written)

    return rewritten(ws, scores, changed)


def _choose_right(rows: list[dict[str, Any]]) -> None:
    right = {sample.id: sample for sample in samples()}
    for row in rows:
        row["choice"] = (right[row["sample"]].swapped if row["probe"] == "swap" else right[row["sample"]].gold)[0]


def _asked_elsewhere(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["probe"] = "swap"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_choose_right, "leaderboard, tuned held_in accuracy, value: 1.0 recorded, 0.5 computed"),
        (lambda rows: rows.__delitem__(slice(24, None)), "has no answer"),
        (lambda rows: rows.append(rows[0]), "a question has more than one answer"),
        (lambda rows: rows.append({**rows[0], "sample": "another"}), "question another was not asked"),
        (_asked_elsewhere, "an answer to probe swap"),
        (lambda rows: rows[0].update(letters=[-1.0, -2.0]), "no text"),
        (lambda rows: rows[0].update(text=7), "no text"),
        (lambda rows: rows.insert(0, {"sample": 1}), "holds no answers"),
        (lambda rows: rows[0].update(sample=[{}]), "holds no answers"),
        (lambda rows: rows.insert(0, "text"), "holds no answers"),  # type: ignore[arg-type]
    ],
)
def test_answers_that_are_none_or_are_read_wrongly_are_refused(
    ws: Workspace, scored: Any, change: Callable[[list[dict[str, Any]]], Any], expected: str
) -> None:
    assert expected in refused(ws, "blind", decided(ws, _answers(ws, scored(ws, "blind"), change)))


def test_a_part_of_the_questions_is_not_comparable_whatever_it_claims(
    ws: Workspace, scored: Any, recipe: Recipe
) -> None:
    part = scored(ws, "good", settings=Bench(probes=("blind", "swap"), limit=46), recipe=recipe)
    assert not json.loads(store.read_file(part, "scores.json"))["comparable"]
    said = refused(ws, "good", decided(ws, rewritten(ws, part, lambda said: said.update(comparable=True))))
    assert "comparable: True recorded, False computed" in said
    forged = rewritten(ws, part, lambda said: said.update(comparable=True))
    record = json.dumps({"recipe": {"bench": {"tasks": ["held_in", "held_out"], "limit": None}}})
    open_store(ws.store).write(f"bench/{forged.digest}/{store.PROVENANCE}", record.encode())
    assert "has no answer" in refused(ws, "good", decided(ws, forged))


def test_the_promoters_policy_decides_and_not_that_of_the_run(
    ws: Workspace, scored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = decided(ws, scored(ws, "fair"))
    assert check(ws, "fair", uri)
    strict = tmp_path / "strict.yaml"
    strict.write_text("min_gain: {held_in: 0.3}\n")
    assert "not surely above +30.0" in refused(ws, "fair", uri, str(strict))
    monkeypatch.setenv(evidence.POLICY, str(strict))
    assert f"policy {strict}, it is refused" in refused(ws, "fair", uri)
    with pytest.raises(UserError, match="no gate policy 'none'"):
        check(ws, "fair", uri, ref="none")
    lax = tmp_path / "lax.yaml"
    lax.write_text("min_gain: {held_in: -1}\n")
    found = check(ws, "fair", uri, ref=str(lax))
    assert gate.read(ws, found.decision.uri)["policy"] != gate.read(ws, uri)["policy"], "the promoter's own decision"


def test_what_is_evidence_for_nothing_or_for_another_model(
    ws: Workspace, scored: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = decided(ws, scored(ws, "good"))
    assert f"judges the model {digest_of('good')}, not {digest_of('fair')}" in refused(ws, "fair", uri)
    other = Decision("promoted", "1", "b" * 64, f"{ws.store}/model/{'b' * 64}", n=1)
    assert check(ws, "good", uri, holder=other) is None
    assert (
        "promoting by hand, without the gate's evidence: the gate judged it against another" in capsys.readouterr().err
    )
    for claimed in ("", "../decision", "file:///etc/passwd"):
        assert "is no digest of a decision" in refused(ws, "good", claimed)
    with pytest.raises(UserError, match="there is no artifact"):
        check(ws, "good", f"s3://elsewhere/decision/{'c' * 64}")
    for document in ("[]", "{", {"candidate": 1, "champion": "", "bench": ""}):
        odd = publish(ws, "decision", {gate.FILE: document})
        assert "is not a decision of the gate" in refused(ws, "good", odd.uri)
    for content in ({}, {"tasks": 1}, {"models": {"tuned": {"digest": "x"}}}):
        odd = publish(ws, "bench", {"scores.json": content})
        document = {"candidate": digest_of("good"), "champion": "", "bench": odd.digest}
        assert "no scores" in refused(ws, "good", publish(ws, "decision", {gate.FILE: document}).uri)


def test_what_was_written_over_is_refused_wherever_evidence_leads(ws: Workspace, scored: Any) -> None:
    scores = scored(ws, "good")
    uri = decided(ws, scores)
    written = json.loads(store.read_file(scores, "scores.json"))
    place = open_store(ws.store)
    for name in (
        f"{uri.removeprefix(ws.store + '/')}/{gate.FILE}",
        f"bench/{scores.digest}/scores.json",
        f"answers/{written['answers']['tuned']['none']}/answers.jsonl",
        f"data/{written['data']}/samples/test-00000-of-00001.parquet",
    ):
        kept = place.read(name)
        place.write(name, kept + b" ")
        with pytest.raises(UserError, match="is damaged"):
            check(ws, "good", uri)
        place.write(name, kept)
    assert check(ws, "good", uri)


def test_a_model_that_does_not_exist_or_is_another_is_none(ws: Workspace) -> None:
    made = model(ws, "good")

    def version(**tags: str) -> Version:
        known = {lookup.DIGEST: made.digest, lookup.URI: made.uri}
        return Version("3", known | {f"medmim.{key}": value for key, value in tags.items()}, 0, "", "")

    assert evidence.model_of(ws, CANDIDATES, version()) == made
    assert evidence.model_of(ws, CANDIDATES, version(uri=f"s3://moved/model/{made.digest}")) == made
    gone = "c" * 64
    with pytest.raises(UserError, match=f"the model of version 3 of {CANDIDATES} does not exist"):
        evidence.model_of(ws, CANDIDATES, version(digest=gone, uri=f"{ws.store}/model/{gone}"))
    with pytest.raises(UserError, match="names two models"):
        evidence.model_of(ws, CANDIDATES, version(digest=gone))
    open_store(ws.store).write("model/mine/manifest.json", (Path(made.uri) / "manifest.json").read_bytes())
    with pytest.raises(UserError, match="does not exist"):  # an address without a digest says nothing of its content
        evidence.model_of(ws, CANDIDATES, version(digest="mine", uri=f"{ws.store}/model/mine"))
    evidence.check_content(made)
    (Path(made.uri) / "weights.txt").write_text("worse")
    with pytest.raises(UserError, match="is damaged") as caught:
        evidence.check_content(made)
    assert caught.value.problems == ("weights.txt",)


def test_adapters_are_checked_with_their_base(ws: Workspace) -> None:
    base = model(ws, "base")
    record = {"ref": f"model/{base.digest}", "digest": checkpoint.digest(base)}
    adapters = publish(ws, "model", {"adapter_config.json": {}, "base.json": record})
    evidence.check_content(adapters)
    place = open_store(ws.store)
    place.write(f"model/{base.digest}/weights.txt", b"worse")
    with pytest.raises(UserError, match=f"{base.digest} is damaged"):
        evidence.check_content(adapters)
