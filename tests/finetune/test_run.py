"""The stage `finetune`; training on Ray is tested in `ray/`."""

import dataclasses
import gc
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from medmim import store, terms, tracking
from medmim.errors import UserError
from medmim.finetune import examples, record, run
from medmim.finetune.plan import plan
from medmim.finetune.ray import exchange, launcher
from medmim.finetune.worker import Job, run_worker
from medmim.lvlm import checkpoint, llava
from medmim.lvlm.family import Family, Segment
from medmim.run.provenance import terms_of
from medmim.run.workspace import Workspace, workspace
from medmim.store.folder import FolderStore
from medmim.terms import Terms
from tests.support.finetune import make_data, make_dev, make_samples
from tests.support.finetune_run import check_reads, of_one_family, on_s3, recipe
from tests.support.killing import killed_at
from tests.support.s3_proxy import Proxy


def test_the_artifact_is_a_model_with_its_losses_and_is_cached(
    world: tuple[Workspace, str, str], bare: list[Job]
) -> None:
    ws, data, base = world
    made = run.run(recipe(base), ws, data)
    artifact = store.get(made.uri)
    assert artifact.kind == "model"
    assert {"model.safetensors", "config.json", "losses.jsonl", "quarantine.jsonl"} <= set(artifact.files)
    assert not [name for name in artifact.files if name.startswith(".") or "resume" in name]
    assert llava.load(checkpoint.resolve(made.uri, ws)).digest != checkpoint.digest(Path(base))
    assert made.facts["steps"] == 3 and made.facts["samples"] == 30 and made.facts["workers"] == 1
    assert [step for step, _ in made.facts["losses"]] == [1, 2, 3]
    notes = json.loads((ws.fetch(made.uri) / store.PROVENANCE).read_text())
    assert notes["ran"] == [{"from_step": 0, "workers": 1, "zero": 0, "offload": "none", "device": "cpu"}]
    # neither how often to save nor how the work is shared out changes the result
    other = recipe(
        base, save_every="7m", keep_checkpoints=1, zero=2, offload="optimizer", activation_checkpointing=True
    )
    other = other.model_copy(update={"platform": other.platform.model_copy(update={"workers": 8})})
    again = run.run(other, ws, data)
    assert again.cached and again.digest == made.digest and again.facts == made.facts
    run.run(recipe(base, lr=2e-3), ws, data)
    assert len(bare) == 2


@of_one_family
def test_a_training_of_a_run_is_a_run_in_mlflow_from_its_first_step_on(
    world: tuple[Workspace, str, str], bare: list[Job], mlflow_database: Path, tmp_path: Path
) -> None:
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    ws = dataclasses.replace(world[0], run="demo-1", tracking=f"sqlite:///{tmp_path}/mlflow.db")
    facts = run.run(recipe(world[2], seed=7), ws, world[1]).facts
    found = tracking.client(ws).get_run(facts["mlflow_run"])
    assert (found.info.status, found.info.run_name) == ("RUNNING", "demo-1")  # `register` ends it
    assert found.data.params["finetune.seed"] == "7"
    history = tracking.client(ws).get_metric_history(found.info.run_id, "train/loss")
    assert [[point.step, point.value] for point in history] == facts["losses"]


@of_one_family
def test_the_validation_is_in_the_model_and_in_the_key_only_where_it_chooses(
    world: tuple[Workspace, str, str], bare: list[Job], tmp_path: Path
) -> None:
    ws, _, base = world
    folder = make_data(tmp_path / "data", [*make_samples(30), *make_dev()])
    uri = store.publish(folder, ws.store, "data", {}, {}).uri
    made = run.run(recipe(base, validation={"every": 2}), ws, uri)
    assert [step for step, _, _ in made.facts["validation"]] == [0, 2, 3]
    _, loss, accuracy = made.facts["validation"][-1]
    chosen = {"kept_step": 3, "dev_loss": loss, "dev_accuracy": accuracy, "dev_items": 14, "dev_quarantined": {}}
    assert chosen.items() <= made.facts.items()
    assert made.facts["samples"] == 30 and 0 <= accuracy <= 1
    assert run.run(recipe(base, validation={"items": 5}), ws, uri).digest == made.digest and len(bare) == 1
    for items in (14, 5):
        assert not run.run(recipe(base, keep="best", validation={"items": items, "every": 2}), ws, uri).cached
    assert len(bare) == 3


def test_a_tuned_model_may_do_what_its_base_and_its_data_both_allow(
    world: tuple[Workspace, str, str], bare: list[Job], tmp_path: Path
) -> None:
    ws, _, base = world
    data = tmp_path / "data"
    make_data(data, make_samples(6))
    (data / "note").write_text("another digest")
    allowed = Terms(serve=True, commercial_use=True, text=("of the data",))
    uri = store.publish(data, ws.store, "data", {}, {"terms": allowed.as_dict()}).uri
    shutil.copytree(base, tmp_path / "base")
    digests = set()
    for of_base in (Terms(serve=True, release_weights=True, text=("of the base",)), Terms(text=("strict",))):
        (tmp_path / "base" / terms.FILE).write_text(of_base.dump())
        made = store.get(run.run(recipe(str(tmp_path / "base")), ws, uri).uri)
        assert terms_of(made) == checkpoint.terms_of(made.uri) == terms.combine([of_base, allowed])
        digests.add(made.digest)
    assert len(digests) == 2  # a base with other terms is not found in the cache under the old ones
    (tmp_path / "base" / terms.FILE).unlink()
    made = store.get(run.run(recipe(str(tmp_path / "base")), ws, uri).uri)
    assert terms_of(made).refused == terms.FLAGS


def test_another_chat_format_finds_no_earlier_model(
    world: tuple[Workspace, str, str], family: Family, bare: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    ws, data, base = world
    settings = recipe(base, steps=1)
    old = run.run(settings, ws, data)
    wordier = dataclasses.replace(
        family, write=lambda turns, images: [Segment("Be brief. "), *family.write(turns, images)]
    )
    monkeypatch.setattr(checkpoint, "FAMILIES", (wordier,))
    new = run.run(settings, ws, data)
    assert not new.cached and new.digest != old.digest
    monkeypatch.undo()
    assert run.run(settings, ws, data).digest == old.digest


@of_one_family
def test_the_weights_of_the_base_are_hashed_once_and_by_no_worker(
    world: tuple[Workspace, str, str], bare: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    ws, data, base = world
    hashed: list[Path] = []
    real = store.file_digest

    def file_digest(path: Path) -> str:
        hashed.append(path)
        return real(path)

    monkeypatch.setattr(store, "file_digest", file_digest)
    monkeypatch.setattr(store.artifact, "file_digest", file_digest)
    run.run(recipe(base, steps=2, lr=3e-3), ws, data)
    assert len(bare) == 1  # driver and worker are this process
    assert sorted(path.name for path in hashed if path.suffix == ".safetensors" and path.parent == Path(base)) == [
        "model.safetensors"
    ]


@of_one_family
def test_the_driver_holds_neither_a_model_nor_samples_while_workers_train(
    world: tuple[Workspace, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ws, data, base = world

    def held() -> list[str]:
        gc.collect()
        kinds = ("Encoded", "Examples", "Sample", "Encoding", "LlavaForConditionalGeneration")
        return sorted(kind for kind in map(_kind, gc.get_objects()) if kind in kinds)

    def launch(*_: object) -> record.TrainResult:
        assert held() == before
        raise UserError("far enough")

    monkeypatch.setattr(launcher, "launch", launch)
    before = held()
    with pytest.raises(UserError, match="far enough"):
        run.run(recipe(base, lr=0.5), ws, data)


def _kind(it: object) -> str:
    return type(it).__name__


@of_one_family
def test_quarantined_rows_have_their_length_and_are_counted_together(
    world: tuple[Workspace, str, str], bare: list[Job], tmp_path: Path
) -> None:
    ws, _, base = world
    samples = make_samples(8)
    long = [dataclasses.replace(s, question="mass " * (500 + i)) for i, s in enumerate(samples[:2])]
    made = make_data(tmp_path / "d", [*long, *samples[2:]])
    uri = store.publish(made, ws.store, "data", {}, {}).uri
    settings = recipe(base).model_copy(update={"data": recipe(base).data.model_copy(update={"max_bad_fraction": 0.5})})
    done = run.run(settings, ws, uri)
    assert done.facts["quarantined"] == {"longer than finetune.max_tokens (400)": 2} and done.facts["samples"] == 6
    lines = (ws.fetch(done.uri) / "quarantine.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["key"] for row in rows] == [s.id for s in long]
    assert all(row["reason"].endswith(" tokens") for row in rows) and rows[0]["reason"] != rows[1]["reason"]
    assert 0 <= done.facts["data_wait"] <= 1


@of_one_family
def test_the_head_of_a_cluster_fetches_neither_weights_nor_pixels(
    world: tuple[Workspace, str, str],
    far: tuple[Workspace, store.Artifact, store.Artifact],
    bucket: str,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ws, data, base = far
    jobs: list[Job] = []

    def launch(job: Job, *_: object) -> record.TrainResult:
        jobs.append(job)
        raise UserError("far enough")

    monkeypatch.setattr(launcher, "launch", launch)
    proxy.reads.clear()
    with pytest.raises(UserError, match="far enough"):
        run.run(on_s3(base.uri, bucket, "127.0.0.1:1"), ws, data.uri)
    assert [(job.base, job.data) for job in jobs] == [(base.uri, data.uri)]
    check_reads(proxy, data, base)
    examples.prepare(Path(world[2]), tmp_path / "data", 400, 0.0)[0].save(tmp_path / "here")
    assert store.open_store(jobs[0].folder).read("examples.safetensors") == (tmp_path / "here").read_bytes()
    proxy.reads.clear()
    with pytest.raises(UserError, match="far enough"):
        run.run(on_s3(base.uri, bucket, "127.0.0.1:1"), ws, data.uri)
    assert not [name for name in proxy.names() if name.endswith("parquet")], "the tokens of the first try are used"


@of_one_family
def test_head_and_worker_of_one_cache_give_the_digest_of_one_machine(
    world: tuple[Workspace, str, str],
    far: tuple[Workspace, store.Artifact, store.Artifact],
    bare: list[Job],
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The parts that the head has fetched lie beside the whole copies, which the worker reads."""
    ws, _, base = far
    make_data(tmp_path / "real", make_samples(30) + make_samples(5, "test"))
    data = store.publish(tmp_path / "real", bucket, "data", {}, {})
    monkeypatch.setenv("MEDMIM_HOME", str(ws.home))
    here = run.run(recipe(world[2], steps=1), dataclasses.replace(world[0], home=tmp_path / "here"), world[1])

    def launch(job: Job, folder: Path, *_: object) -> record.TrainResult:
        assert len(list(ws.cache.glob("*-*"))) == 2 and not (ws.cache / base.digest).exists()
        own = exchange.fetch_job(job, 0, "")
        result = run_worker(own)
        exchange.download_model(exchange.upload_model(job.folder, Path(own.folder)), folder)
        return result

    monkeypatch.setattr(launcher, "launch", launch)
    there = on_s3(base.uri, bucket, "127.0.0.1:1")
    there = there.model_copy(update={"finetune": there.finetune.model_copy(update={"steps": 1})})
    assert run.run(there, ws, data.uri).digest == here.digest
    assert (ws.cache / base.digest / "model.safetensors").is_file()


LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "down_proj"]}


def weights_of(ws: Workspace, uri: str) -> dict[str, torch.Tensor]:
    """Of a model as it is asked; adapters are added to their base."""
    found: dict[str, torch.Tensor] = llava.load(checkpoint.resolve(uri, ws), "cpu").model.state_dict()
    return found


def test_lora_publishes_adapters_or_the_same_as_one_model(
    world: tuple[Workspace, str, str], bare: list[Job], tmp_path: Path
) -> None:
    ws, data, shared = world
    base = shutil.copytree(shared, tmp_path / "base")
    allowed = Terms(serve=True, text=("of the base",))
    (base / terms.FILE).write_text(allowed.dump())
    made = run.run(recipe(str(base), lora=LORA, lr=0.02), ws, data)
    artifact = store.get(made.uri)
    assert artifact.kind == "model" and {"adapter_config.json", "adapter_model.safetensors"} <= set(artifact.files)
    assert not {"model.safetensors", "resume"} & set(artifact.files)
    record = json.loads(store.read_file(artifact, "base.json"))
    assert record["digest"] == checkpoint.digest(base)
    kept = store.get(f"{ws.store}/{record['ref']}")
    assert checkpoint.digest(kept) == record["digest"] and checkpoint.terms_of(kept.uri) == allowed
    config = json.loads(store.read_file(artifact, "adapter_config.json"))
    assert config["base_model_name_or_path"] == record["ref"] and str(tmp_path) not in json.dumps(config)
    assert terms_of(artifact) == terms.combine([allowed, terms_of(store.get(data))])

    merged = run.run(recipe(str(base), lora={**LORA, "merge": True}, lr=0.02), ws, data)
    assert "model.safetensors" in store.get(merged.uri).files and not merged.cached
    shutil.rmtree(base)  # the copy in the store is enough
    one, other, before = (weights_of(ws, uri) for uri in (made.uri, merged.uri, shared))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], rtol=0, atol=1e-6) for name in one)
    changed = {name.split(".")[1] for name in one if not torch.equal(one[name], before[name])}
    assert changed == {"language_model", "multi_modal_projector"}

    with pytest.raises(UserError, match="holds LoRA adapters") as error:
        run.run(recipe(made.uri), ws, data)
    assert "merge: true" in error.value.fix
    with pytest.raises(UserError, match="holds LoRA adapters"):
        plan(recipe(made.uri), ws, data)
    assert run.run(recipe(merged.uri, steps=1), ws, data).facts["steps"] == 1


@of_one_family
def test_adapters_are_published_once_wherever_a_kill_comes(
    world: tuple[Workspace, str, str], bare: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_in_mlflow", lambda *_: nullcontext(""))  # a process for each kill, otherwise
    base = world[2]
    ws = workspace(tmp_path / "home", run="r")  # the record of its stage is a call of the store, too
    make_data(tmp_path / "data", make_samples(8))
    data = store.publish(tmp_path / "data", ws.store, "data", {}, {}).uri
    settings = recipe(base, lora=LORA, steps=2)
    kills = 0
    while killed_at(
        kills, FolderStore, ("upload", "create_from", "create", "write"), lambda: run.run(settings, ws, data)
    ):
        kills += 1 if kills < 3 else 4
    assert kills > 3
    made = run.run(settings, ws, data)
    models = {key.split("/")[1] for key in store.open_store(ws.store).list("model/") if key.endswith(store.MANIFEST)}
    (kept,) = models - {made.digest}
    record = json.loads(store.read_file(store.get(made.uri), "base.json"))
    assert made.cached and record["ref"] == f"model/{kept}"
