"""Checkpoints that are served for as long as they are asked; the server is a stand-in, a real process with real HTTP.

The real vLLM: tests/vllm.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from medmim import store
from medmim.bench import answers, asking, engines, run, served
from medmim.errors import UserError
from medmim.lvlm import checkpoint, child, saving, vllm_server, weights
from medmim.lvlm.ask import Question
from medmim.run.workspace import workspace
from medmim.store.flock import try_lock
from tests.bench.test_fanout import CODE, recipe
from tests.bench.test_run import SETTINGS
from tests.support import ray_cluster, vllm_stand_in
from tests.support.bench import World, publish, samples
from tests.support.openai_server import Server

VLLM = SETTINGS.model_copy(update={"engine": "vllm", "probes": ("blind",), "limit": 12})


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    import tenacity

    monkeypatch.setattr(vllm_server, "_LOOK", 0.05)
    monkeypatch.setattr(tenacity, "wait_exponential_jitter", lambda *_, **__: tenacity.wait_none())


def starts(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def gone(process: int) -> bool:
    """Within a time; a zombie has ended."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def engine(world: World, home: Path) -> engines.Engine:
    return engines.engine(str(world.models[0]), workspace(home), by="vllm")


def test_models_are_served_one_after_the_other_asked_and_removed(world, tmp_path, monkeypatch):
    log = vllm_stand_in.install(tmp_path, monkeypatch)
    ws = workspace(tmp_path / "home")
    data = publish(world, ws.store)
    models = {"tuned": str(world.models[0]), "base": str(world.models[1])}
    artifact, _ = run.bench(ws, data, models, VLLM)
    assert len(starts(log)) == 2 and all(gone(one[name]) for one in starts(log) for name in ("pid", "helper"))
    first = starts(log)[0]["arguments"]
    option = dict(zip(first, first[1:], strict=False))
    assert option["--host"] == "127.0.0.1" and option["--dtype"] == "float32"
    assert option["--model"] == str(world.models[0]) and option["--chat-template-content-format"] == "openai"
    assert "(image ' + shown.images|string + ': <Image>" in Path(option["--chat-template"]).read_text("utf-8")
    given = run.scores(ws, artifact.uri)["answers"]["tuned"]["none"]
    found = store.get(f"{ws.store}/answers/{given}")
    assert {answer.text for answer in answers.load(store.fetch(found, ws.cache))} == {"B"}
    assert run.bench(ws, data, models, VLLM) == (artifact, True) and len(starts(log)) == 2
    assert not list((tmp_path / "home" / "vllm").glob("model-*"))


def test_answers_of_vllm_have_other_keys_and_equal_ones_at_every_port(world, tmp_path, monkeypatch):
    vllm_stand_in.install(tmp_path, monkeypatch)
    ws, here = workspace(tmp_path), engine(world, tmp_path)
    other = engines.engine(str(world.models[0]), ws)

    def key(one: engines.Engine) -> str:
        return answers.step_key("answers", 1, *answers._key_parts(one, "d", "none", "generate", VLLM))

    keys = [key(here), key(other), answers.on_any_machine(here, "d", "none", VLLM, "generate")]
    assert here.digest == other.digest and keys[2] != answers.on_any_machine(other, "d", "none", VLLM, "generate")
    assert answers._asked_for(here, "d", "none", "generate", VLLM)[0]["engine"] == "vllm"
    said = []
    for _ in range(2):
        said += here.ask([Question("What changed?")], 1, 3)
        here.release()
    assert said[0] == said[1] and here.inference()["engine"] == "vllm 0.0.1"
    monkeypatch.setenv("MEDMIM_VLLM_ARGS", "--max-model-len 512")
    assert key(here) not in keys
    assert next(iter(here.ask([Question("What changed?")], 1, 3))).key != said[0].key
    here.release()


def test_what_medmim_saved_before_is_served_as_it_saves_today(world, tmp_path, monkeypatch):
    """The shipped bases have other names of weights, which vLLM does not take."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # it is in the name of the log
    log = vllm_stand_in.install(tmp_path, monkeypatch)
    saved, real = [], vllm_server.start

    def start(folder, *given, **more):
        saved.append(set(weights.tensors(folder / "model.safetensors")))
        return real(folder, *given, **more)

    monkeypatch.setattr(vllm_server, "start", start)
    model = engines.engine("tiny-llava-med", workspace(tmp_path), by="vllm")
    assert next(iter(model.ask([Question("What changed?")], 1, 3))).text == "B"
    model.release()
    assert "vision_tower.vision_model.embeddings.patch_embedding.weight" in saved[0]
    assert not Path(starts(log)[0]["arguments"][3]).exists()
    assert {path.name for path in (tmp_path / "vllm").iterdir() if path.is_file()} == {
        "llava-med.jinja",
        f"{model.digest[:16]}.log",
    }
    assert checkpoint.resolve("tiny-llava-med") != Path(starts(log)[0]["arguments"][3])


def test_a_copy_that_a_killed_process_left_is_removed_and_no_other_one(world, tmp_path, monkeypatch):
    vllm_stand_in.install(tmp_path, monkeypatch)
    left, used = (tmp_path / "vllm" / f"model-{name}" for name in ("left", "used"))
    for folder in (left, used):
        folder.mkdir(parents=True)
        (folder / "weights").write_text("w")
        folder.with_name(f"{folder.name}.lock").touch()
    model = engines.engine("tiny-llava-med", workspace(tmp_path), by="vllm")
    with try_lock(used.with_name("model-used.lock")):
        list(model.ask([Question("What changed?")], 1, 3))
    model.release()
    assert {path.name for path in (tmp_path / "vllm").glob("model-*")} == {"model-used", "model-used.lock"}


def test_the_workers_of_a_node_load_one_copy_that_the_last_removes(tmp_path, monkeypatch):
    ws, saved, real = workspace(tmp_path), [], saving.save
    (tmp_path / "vllm").mkdir()
    monkeypatch.setattr(
        saving, "save", lambda lvlm, folder: [saved.append(folder), time.sleep(0.5), real(lvlm, folder)]
    )
    start, end = threading.Barrier(3, timeout=60), threading.Barrier(3, timeout=60)
    path = checkpoint.resolve("tiny-llava-med")

    def load(wait: int) -> None:
        start.wait()
        with served._loadable(path, "d", "float32", ws) as folder:
            end.wait()
            time.sleep(0.3 * wait)
            assert weights.tensors(folder / "model.safetensors")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(load, range(3)))
    assert len(saved) == 1 and not list((tmp_path / "vllm").iterdir())


def test_a_copy_that_cannot_be_made_is_an_error_of_each_worker_and_leaves_nothing(tmp_path, monkeypatch):
    def save(lvlm, folder):
        folder.mkdir()
        raise UserError("the disk is full")

    (tmp_path / "vllm").mkdir()
    monkeypatch.setattr(saving, "save", save)
    path = checkpoint.resolve("tiny-llava-med")
    for _ in range(2):
        with pytest.raises(UserError, match="full"), served._loadable(path, "d", "float32", workspace(tmp_path)):
            pass
    assert not list((tmp_path / "vllm").iterdir())


def test_what_asking_took_is_without_the_start_of_the_server(world, tmp_path, monkeypatch):
    vllm_stand_in.install(tmp_path, monkeypatch)
    real = vllm_server.start
    monkeypatch.setattr(vllm_server, "start", lambda *given, **more: [time.sleep(3), real(*given, **more)][1])
    model = engine(world, tmp_path)
    (sample, *_) = samples()
    (one,) = asking.ask(model, [[sample]], {}, {}, "blind", "generate", VLLM)
    model.release()
    assert one.answer.text == "B" and one.seconds < 3


def test_each_gpu_of_a_node_has_a_log(world, tmp_path, monkeypatch):
    vllm_stand_in.install(tmp_path, monkeypatch, "other")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    with pytest.raises(UserError, match="ended while") as caught:
        next(iter(engine(world, tmp_path).ask([Question("hello")], 1, 3)))
    assert "-gpu3_4.log" in caught.value.fix


@pytest.mark.parametrize(
    ("mode", "fact", "fix"),
    [
        ("memory", "the memory is used up", "MEDMIM_VLLM_ARGS='--max-model-len"),
        ("class", "vLLM does not serve this class of models", "--engine transformers"),
        ("other", "vLLM ended while it served", ".log"),
    ],
)
def test_a_server_that_does_not_start_is_reported_with_the_last_lines_of_its_log(
    world, tmp_path, monkeypatch, mode, fact, fix
):
    log = vllm_stand_in.install(tmp_path, monkeypatch, mode)
    with pytest.raises(UserError, match=fact) as caught:
        next(iter(engine(world, tmp_path).ask([Question("hello")], 1, 3)))
    assert caught.value.exit_code == 2 and fix in caught.value.fix
    assert caught.value.problems[-1] == vllm_stand_in.LAST_WORDS[mode][:300]
    assert mode == "other" or caught.value.reason == vllm_stand_in.LAST_WORDS[mode]
    assert len(starts(log)) == 1 and gone(starts(log)[0]["helper"])


def test_a_port_that_another_process_took_is_not_the_end(world, tmp_path, monkeypatch):
    log = vllm_stand_in.install(tmp_path, monkeypatch, "taken")
    model = engine(world, tmp_path)
    assert next(iter(model.ask([Question("hello")], 1, 3))).text == "B" and len(starts(log)) == 2
    model.release()


def test_a_server_that_dies_while_it_is_asked_is_reported_with_its_cause(world, tmp_path, monkeypatch):
    log = vllm_stand_in.install(tmp_path, monkeypatch, "dies")
    model, got = engine(world, tmp_path), []
    with pytest.raises(UserError, match="the memory is used up") as caught:
        got.extend(model.ask((Question(f"number {i}") for i in range(50)), 1, 3))
    assert "CUDA out of memory" in caught.value.reason and 0 < len(got) <= 8
    assert gone(starts(log)[0]["helper"])
    monkeypatch.setenv(vllm_stand_in.MODE, "")
    assert next(iter(model.ask([Question("hello")], 1, 3))).text == "B"  # it is started again
    model.release()


def test_many_threads_that_ask_start_one_server_and_one_again_when_it_has_died(world, tmp_path, monkeypatch):
    log = vllm_stand_in.install(tmp_path, monkeypatch, "dies")
    model = engine(world, tmp_path)
    together = threading.Barrier(16)

    def ask(number: int) -> str:
        together.wait(60)
        try:
            return next(iter(model.ask([Question(f"number {number}")], 16, 3))).text
        except UserError as error:
            return error.fact

    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(ask, range(16)))
        assert len(starts(log)) == 1 and 0 < got.count("B") < 16
        monkeypatch.setenv(vllm_stand_in.MODE, "")
        assert set(pool.map(ask, range(16))) == {"B"}
    assert len(starts(log)) == 2 and gone(starts(log)[0]["helper"])
    model.release()
    assert gone(starts(log)[1]["helper"])


def test_no_server_stays_where_its_engine_is_forgotten(world, tmp_path, monkeypatch):
    """As where an error ends a benchmark."""
    log = vllm_stand_in.install(tmp_path, monkeypatch)
    next(iter(engine(world, tmp_path).ask([Question("hello")], 1, 3)))
    assert all(gone(starts(log)[0][name]) for name in ("pid", "helper"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_stays_when_the_one_that_started_it_is_killed(tmp_path, number):
    code = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, {child.__file__!r}, 'sh', '-c', 'sleep 600 & echo $$ $!; wait'],"
        " stdin=subprocess.PIPE, start_new_session=True)\ntime.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        ours = list(map(int, parent.stdout.readline().split()))
        assert len(ours) == 2 and all(os.path.exists(f"/proc/{one}") for one in ours)
        parent.send_signal(number)
        parent.wait()
    assert all(map(gone, ours))


def test_no_process_stays_when_the_one_that_waits_for_it_is_killed_with_its_parent():
    """As Ray kills the children of a worker that ends."""
    command = [sys.executable, child.__file__, "sh", "-c", "echo $$; sleep 600"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        pid = int(started.stdout.readline())
        started.kill()
        started.wait()
        started.stdin.close()
        assert gone(pid)


def test_a_command_that_ignores_the_request_to_end_is_killed(tmp_path):
    quick = tmp_path / "child.py"
    quick.write_text(Path(child.__file__).read_text("utf-8").replace("_GRACE = 20.0", "_GRACE = 0.2"), "utf-8")
    command = [sys.executable, str(quick), "sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.1; done"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        pid = int(started.stdout.readline())
        started.stdin.close()
        assert started.wait(20) == 128 + signal.SIGKILL and gone(pid)


def test_a_proxy_of_the_environment_does_not_stand_before_our_own_server(world, tmp_path, monkeypatch):
    vllm_stand_in.install(tmp_path, monkeypatch)
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    model = engine(world, tmp_path)
    assert next(iter(model.ask([Question("hello")], 1, 3))).text == "B"
    model.release()


def test_our_own_server_demands_no_key(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "of-another-server")
    code = "import os, sys; sys.exit('VLLM_API_KEY' in os.environ)"
    assert subprocess.run([sys.executable, "-c", code], env=vllm_server._plain()).returncode == 0


def test_without_vllm_the_variable_is_named(world, tmp_path, monkeypatch):
    monkeypatch.delenv("MEDMIM_VLLM_PYTHON", raising=False)
    with pytest.raises(UserError, match="vLLM is not installed") as caught:
        run.bench(ws := workspace(tmp_path), publish(world, ws.store), {"model": str(world.models[0])}, VLLM)
    assert "MEDMIM_VLLM_PYTHON=" in caught.value.fix
    monkeypatch.setenv("MEDMIM_VLLM_PYTHON", "/no/python")
    with pytest.raises(UserError, match="which is no program"):
        served.inference()
    monkeypatch.setenv("MEDMIM_VLLM_PYTHON", sys.executable)
    with pytest.raises(UserError, match="has no vLLM"):
        served.inference()
    monkeypatch.setenv("MEDMIM_VLLM_ARGS", "'")
    with pytest.raises(UserError, match="MEDMIM_VLLM_ARGS is"):
        served.inference()


def test_a_server_of_others_is_asked_as_it_is(tmp_path):
    ref = "openai:http://127.0.0.1:9/v1#tiny"
    ours, plain = (engines.engine(ref, workspace(tmp_path), by=by) for by in ("vllm", ""))
    assert replace(ours, ask=plain.ask, compare=plain.compare, learned=plain.learned) == plain


@pytest.fixture
def server():
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        running.count = lambda text, images: len(text.split()) + 100 * len(images)
        yield running
        running.shutdown()


def test_a_server_is_asked_about_the_same_images_in_a_row(world, tmp_path, server):
    ws = workspace(tmp_path)
    settings = SETTINGS.model_copy(update={"probes": (), "batch_size": 1})
    artifact, _ = run.bench(ws, publish(world, ws.store), {"model": f"openai:{server.url}#tiny"}, settings)
    asked = [one for one in server.requests if one["max_tokens"] != 1]
    shown = [tuple(part["uuid"] for part in one["messages"][0]["content"][:-1]) for one in asked]
    assert len(shown) == 48 and len(set(shown)) == 24
    assert sum(a != b for a, b in zip(shown, shown[1:], strict=False)) == 23
    given = run.scores(ws, artifact.uri)["answers"]["model"]["none"]
    known = json.loads(Path(ws.store, "answers", given, "provenance.json").read_text("utf-8"))
    assert known["images_arrive"] == "seen in questions of up to 3, by usage.prompt_tokens"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_worker_of_a_ray_cluster_serves_and_removes_its_server(world, tmp_path, monkeypatch):
    log = vllm_stand_in.install(tmp_path, monkeypatch)
    where = tmp_path / "store"
    keep = {name: os.environ[name] for name in ("MEDMIM_VLLM_PYTHON", vllm_stand_in.MODE, "VLLM_STAND_IN_LOG")}
    with ray_cluster.nodes(tmp_path / "nodes", 2, **keep) as nodes:
        made = recipe(where, nodes.address, engine="vllm", probes=["blind"], batch_size=2)
        out = ray_cluster.driver(
            CODE, made.dump(), tmp_path / "head", publish(world, str(where)), *world.models
        ).communicate(timeout=400)[0]
    events = ray_cluster.events(out)
    assert [event["kind"] for event in events].count("digest") == 1, out
    assert len({Path(one["arguments"][one["arguments"].index("--chat-template") + 1]) for one in starts(log)}) == 2
    assert all(gone(one[name]) for one in starts(log) for name in ("pid", "helper"))
    print(f"{len(starts(log))} servers for two models on two nodes")
