"""The keys of answers: all that decides them is in, as it is where they are given, and nothing else."""

import gc
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medmim import store
from medmim.bench import answers, asking, engines, run
from medmim.bench.likelihood import GENERATE, LIKELIHOOD
from medmim.lvlm import llava
from medmim.lvlm.ask import Reply
from medmim.recipe.schema import Bench
from medmim.run.workspace import workspace
from tests.bench.test_fanout import recipe
from tests.bench.test_run import SETTINGS
from tests.support import crew
from tests.support.bench import World, publish, samples

CPU = {"device": "cpu", "dtype": "float32", "images": "pil"}
PROBES = ("none", "blind")


def engine(**fields: Any) -> answers.Engine:
    def ask(questions: Any, *_: int) -> Iterator[Reply]:
        yield from (Reply("B", "k") for _ in questions)

    def compare(questions: Any, *_: int) -> Iterator[Reply]:
        yield from (Reply("", "k", letters=(0.0,) * len(question.options)) for question in questions)

    known = {"template": "t", "compare": compare, "inference": lambda: CPU}
    return answers.Engine("ref", "digest", ask, **{**known, **fields})


def key(model: answers.Engine, probe: str = "none", protocol: str = GENERATE, **settings: Any) -> str:
    return answers.step_key(
        "answers", 1, *answers._key_parts(model, "data", probe, protocol, SETTINGS.model_copy(update=settings))
    )


def test_what_decides_an_answer_is_in_its_key() -> None:
    half = engine(inference=lambda: {**CPU, "dtype": "bfloat16"})
    keys = [
        key(engine()),
        key(engine(template="other")),
        key(engine(), "blind"),
        key(engine(), protocol=LIKELIHOOD),
        key(engine(), protocol=LIKELIHOOD, batch_size=5),
        key(engine(), max_new_tokens=5),
        key(engine(inference=lambda: {**CPU, "device": "NVIDIA H100"})),
        key(engine(inference=lambda: {**CPU, "device": "NVIDIA H200"})),
        key(engine(inference=lambda: {**CPU, "images": "torchvision"})),
        key(half),
        key(half, batch_size=5),
        key(replace(engine(), digest="other")),
    ]
    assert len(set(keys)) == len(keys)


def test_what_decides_nothing_is_not() -> None:
    assert key(engine()) == key(engine(), batch_size=5)
    server = engine(template="", inference=dict)
    assert key(server) == key(server, batch_size=5)  # requests that are sent together are answered apart
    assert key(server, protocol=LIKELIHOOD) == key(server, protocol=LIKELIHOOD, batch_size=5)
    assert key(engine(), protocol=LIKELIHOOD) == key(engine(), protocol=LIKELIHOOD, max_new_tokens=5)


def test_the_machine_is_known_as_the_loaded_model_is(world: World, tmp_path: Path) -> None:
    found = engines.engine(str(world.models[0]), workspace(tmp_path)).inference()
    lvlm = llava.load(world.models[0])
    assert (found["device"], found["dtype"]) == lvlm.inference[:2]
    assert found["images"] in type(lvlm.image_processor).__name__.lower()


def test_one_model_at_a_time_is_in_memory(world: World, tmp_path: Path) -> None:
    log: list[str] = []

    def watched(role: str) -> answers.Engine:
        one = engine(release=lambda: log.append(f"{role} released"))
        return replace(one, digest=role, ask=lambda *given: log.append(role) or one.ask(*given))

    ws = workspace(tmp_path)
    models = {role: watched(role) for role in ("tuned", "base")}
    run.collect(ws, store.get(publish(world, ws.store)), models, PROBES, SETTINGS, None)
    assert list(dict.fromkeys(log)) == ["tuned", "tuned released", "base", "base released"]


def test_a_released_model_is_loaded_again_and_answers_as_before(world: World, tmp_path: Path, monkeypatch) -> None:
    from medmim.lvlm.ask import Question

    loads: list[Path] = []
    real = llava.load
    monkeypatch.setattr(llava, "load", lambda path, **given: loads.append(path) or real(path, **given))
    model = engines.engine(str(world.models[0]), workspace(tmp_path))
    asked = [Question("What changed?")]
    said = [next(iter(model.ask(asked, 1, 3))) for _ in range(2)]
    model.release()
    said.append(next(iter(model.ask(asked, 1, 3))))
    assert len(set(said)) == 1 and len(loads) == 2


def test_a_released_model_leaves_the_memory_at_once(world: World, tmp_path: Path, monkeypatch) -> None:
    """Not when Python next looks for garbage: the following model may be loaded before."""
    from medmim.lvlm.ask import Question

    loaded: list[weakref.ref[Any]] = []
    real = llava.load

    def load(path: Path, **given: Any) -> Any:
        lvlm = real(path, **given)
        lvlm.model.__dict__["cycle"] = lvlm.model  # as the frames of an error that transformers handled
        loaded.append(weakref.ref(lvlm.model))
        return lvlm

    monkeypatch.setattr(llava, "load", load)
    model = engines.engine(str(world.models[0]), workspace(tmp_path))
    gc.disable()
    try:
        assert len(list(model.ask([Question("What changed?")], 1, 3))) == 1
        assert loaded[0]() is not None
        model.release()
        assert loaded[0]() is None
    finally:
        gc.enable()


def test_the_node_that_answers_decides_the_key_and_done_answers_need_no_cluster(world, tmp_path, monkeypatch) -> None:
    cluster = crew.Cluster(tmp_path / "node").start(monkeypatch)
    made = recipe(tmp_path / "store", "127.0.0.1:1", protocol="both", probes=["blind"])
    data = publish(world, str(made.platform.store))
    models = {"tuned": "one", "base": "two"}
    first = crew.collect(made, tmp_path / "head", data, PROBES, **models)
    assert cluster.joined == 1 and len(first) == 8
    assert list(first) == [(r, p, how) for r in models for p in (GENERATE, LIKELIHOOD) for how in PROBES]
    for artifact in first.values():
        provenance = (Path(artifact.uri) / store.PROVENANCE).read_text()
        assert '"NVIDIA H200"' in provenance and '"cpu"' not in provenance
    shutil.rmtree(tmp_path / "head")
    assert crew.collect(made, tmp_path / "head", data, PROBES, **models) == first
    assert cluster.joined == 1  # all is known


def test_a_new_model_is_compared_with_answers_of_the_same_kind_of_node(world, tmp_path, monkeypatch) -> None:
    cluster = crew.Cluster(tmp_path / "node").start(monkeypatch)
    made = recipe(tmp_path / "store", "127.0.0.1:1", probes=["blind"])
    data = publish(world, str(made.platform.store))

    def asked(**models: str) -> set[str]:
        cluster.asked.clear()
        crew.collect(made, tmp_path / "head", data, PROBES, **models)
        return {role for role, *_ in cluster.asked}

    assert asked(base="two") == {"base"}
    assert asked(tuned="one", base="two") == {"tuned"}  # the nodes are the same: the base is known
    cluster.kind["device"] = "NVIDIA H100"
    assert asked(tuned="three", base="two") == {"tuned", "base"}


@pytest.mark.parametrize("probe", ["none", "blind", "swap"])
def test_every_question_is_in_one_batch_whatever_the_order_of_the_questions(probe: str) -> None:
    settings = Bench(batch_size=5)
    asked = [replace(sample, question="What changed?") if i % 3 else sample for i, sample in enumerate(samples())]
    found = asking.batches(asked, probe, LIKELIHOOD, settings)
    wanted = asking.questions_of(asked, probe, LIKELIHOOD)
    assert sorted(sample.id for batch in found for sample in batch) == sorted(sample.id for sample in wanted)
    shown = [{s.id if probe != "blind" else s.prompt for s in batch} for batch in found]
    assert [len(names) for names in shown[:-1]] == [5] * (len(shown) - 1) and 0 < len(shown[-1]) <= 5
    assert len(set.union(*shown)) == sum(map(len, shown))  # equal questions stand together
    assert asking.batches(asked[::-1], probe, LIKELIHOOD, settings) == found
