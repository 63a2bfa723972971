"""Where a checkpoint comes from: a bucket, the Hub, a folder; and the room that it needs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from medmim import store, terms
from medmim.errors import Unavailable, UserError
from medmim.lvlm.importing import source
from medmim.lvlm.importing.run import Options, import_base
from medmim.run.workspace import Workspace
from medmim.store import ranges
from medmim.store.s3 import S3Store, connect
from tests.support import hub_server
from tests.support.importing import SIGLIP, TOWER, refused
from tests.support.killing import killed_at
from tests.support.originals import LLAVA_MED, write_original
from tests.support.s3_proxy import counting

_FROM_HUB = """
import json, sys
from pathlib import Path
from medmim.errors import UserError
from medmim.lvlm.importing.run import Options, import_base
from medmim.run.provenance import terms_of
from medmim.run.workspace import workspace
ws = workspace(Path(sys.argv[1]))
for name, options in json.loads(sys.argv[2]):
    try:
        made = import_base(name, ws, Options(hub=True, **options))
        print(terms_of(made).text[0], made.digest)
    except UserError as error:
        print(" ".join(str(error).split()))
"""


@pytest.mark.long
def test_what_the_hub_sent_has_the_terms_of_its_name_and_a_clip_comes_from_there_too(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, pickled, med = "TIGER-Lab/Mantis-8B-siglip-llama3", "owner/pickled", "owner/med"
    hub = tmp_path / "hub"
    write_original(hub / name, SIGLIP)
    shutil.copytree(hub / name, hub / pickled)
    for file in (hub / pickled).glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    write_original(hub / med, LLAVA_MED)
    shutil.move(stock_clip(hub / med), hub / "owner" / "clip")
    shutil.copytree(hub / "owner" / "clip", hub / "owner" / "pickled-clip")
    (hub / "owner" / "pickled-clip" / "model.safetensors").rename(hub / "owner" / "pickled-clip" / "model.bin")
    stock = {"tower": "stock", "clip": "owner/clip"}
    asked = [(name, {}), (pickled, {}), (med, stock), (med, {**stock, "clip": "owner/pickled-clip"})]
    with hub_server.serving(hub) as address:
        done = subprocess.run(
            [sys.executable, "-c", _FROM_HUB, str(tmp_path / "other"), json.dumps(asked)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "HF_ENDPOINT": address, "HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"},
        )
    downloaded, refusal, of_med, no_clip = done.stdout.splitlines()
    assert downloaded.startswith(terms.PUBLISHED["llama3"].text[0]), done.stderr
    assert f"{pickled} are pickled: model-00001-of-00002.bin" in refusal and "hf download" in refusal
    assert "then import pickled: python -c" in refusal
    monkeypatch.chdir(hub)
    assert import_base(med, ws, Options(**stock)).digest in of_med
    assert "owner/pickled-clip are pickled: model.bin" in no_clip and "then give --clip pickled-clip: python" in no_clip


def stock_clip(folder: Path) -> Path:
    """Give the CLIP beside a LLaVA-Med weights of its own, other than the checkpoint's tower; returns its folder."""
    at = "model.vision_tower.vision_tower."
    found: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= {n.removeprefix(at): t + 1 for n, t in load_file(file).items() if n.startswith(at)}
    save_file(found, folder / "clip" / "model.safetensors")
    return folder / "clip"


def test_a_checkpoint_comes_from_a_bucket_and_goes_into_one(ws: Workspace, bucket: str, tmp_path: Path) -> None:
    write_original(tmp_path / "original", LLAVA_MED)
    near = import_base(str(tmp_path / "original"), ws, TOWER)
    there = store.open_store(f"{bucket}/raw/llava-med")
    for file in (tmp_path / "original").iterdir():
        if file.is_file():
            there.upload(file.name, file)
    far = Workspace(tmp_path / "far", f"{bucket}/store", "")
    there = store.open_store(f"{bucket}/raw/clip")
    there.upload("config.json", tmp_path / "original" / "clip" / "config.json")
    there.write("pytorch_model.bin", b"the weights of this tower are not wanted")
    chosen = Options(tower="checkpoint", clip=f"{bucket}/raw/clip")
    artifact = import_base(f"{bucket}/raw/llava-med", far, chosen)
    made_from = json.loads(store.open_store(artifact.uri).read(store.PROVENANCE))
    assert (made_from["source"], made_from["clip"]) == (f"{bucket}/raw/llava-med", f"{bucket}/raw/clip")
    assert artifact.uri.startswith(bucket) and artifact.digest == near.digest
    assert not list((far.home / "work").iterdir())
    with pytest.raises(UserError, match="no checkpoint at"):
        import_base(f"{bucket}/raw/other", far, chosen)
    store.open_store(f"{bucket}/raw/pickled").write("pytorch_model.bin", b"x")
    store.open_store(f"{bucket}/raw/pickled").write("config.json", b"{}")
    with pytest.raises(UserError, match="are pickled: pytorch_model.bin") as caught:
        import_base(f"{bucket}/raw/pickled", far, chosen)
    assert "aws s3 cp" in caught.value.fix and "then import FOLDER: python -c" in caught.value.fix


def test_a_stock_clip_comes_from_a_bucket(ws: Workspace, bucket: str, tmp_path: Path) -> None:
    folder = tmp_path / "original"
    write_original(folder, LLAVA_MED)
    clip = stock_clip(folder)
    near = import_base(str(folder), ws, Options("stock"))
    there = store.open_store(f"{bucket}/clip")
    for file in clip.iterdir():
        there.upload(file.name, file)
    shutil.rmtree(clip)
    assert import_base(str(folder), ws, Options("stock", f"{bucket}/clip")).digest == near.digest
    there.delete("model.safetensors")
    there.write("model.bin", b"x")
    error = refused_again(folder, ws, Options("stock", f"{bucket}/clip"))
    assert f"{bucket}/clip are pickled: model.bin" in error.fact and "then give --clip FOLDER: python" in error.fix


@pytest.mark.parametrize(
    ("clip", "fact", "fix"),
    [
        ("nowhere", "there is no checkpoint at nowhere", "check the path"),
        (
            "openai/clip-vit-large-patch14-336",
            "is the name of a checkpoint on the Hugging Face Hub",
            "add --hub; or, where there is a network: `hf download openai/clip-vit-large-patch14-336 --local-dir "
            "CLIP`, then give --clip CLIP",
        ),
    ],
)
def test_a_clip_that_is_not_there_is_refused_before_the_checkpoint_is_copied(
    clip: str, fact: str, fix: str, ws: Workspace, tmp_path: Path
) -> None:
    write_original(tmp_path / "original", LLAVA_MED)
    error = refused("s3://no-such-bucket/at-all", ws, Options("stock", clip))
    assert fact in error.fact and error.fix == fix


def refused_again(folder: Path, ws: Workspace, chosen: Options) -> UserError:
    """The error of an import, after others that were published."""
    with pytest.raises(UserError) as caught:
        import_base(str(folder), ws, chosen)
    return caught.value


def test_what_was_replaced_in_the_bucket_is_copied_again_and_only_that(
    ws: Workspace, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of equal length, after an import that was refused: the copies of the first try are still there."""
    folder, ref, server = tmp_path / "original", f"{bucket}/raw", os.environ["AWS_ENDPOINT_URL"]
    tensors = write_original(folder, SIGLIP, 1)
    name = "model-00001-of-00001.safetensors"
    good = (folder / "config.json").read_bytes()
    wrong = good.replace(b'"model_type": "llama"', b'"model_type": "lamma"')
    there = store.open_store(ref)
    for file in folder.iterdir():
        there.upload(file.name, file)
    there.write("config.json", wrong)
    there.write("zz.safetensors", b"of another checkpoint")
    far = Workspace(tmp_path / "far", f"{bucket}/store", "")
    with pytest.raises(UserError, match="of another family"):
        import_base(ref, far, Options())
    (copy,) = (far.home / "work").glob("import-*/source")
    before = {file.name for file in copy.iterdir()}
    there.write("config.json", good.replace(b'"projector_hidden_act": "gelu"', b'"projector_hidden_act": "nope"'))
    there.delete("zz.safetensors")
    with counting(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        connect.cache_clear()
        with pytest.raises(UserError, match="not a configuration that transformers accepts"):
            import_base(ref, far, Options())
    assert before - {file.name for file in copy.iterdir()} == {"zz.safetensors"}
    assert proxy.names() == {"config.json"}
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    connect.cache_clear()
    there = store.open_store(ref)
    changed = tensors | {"language_model.lm_head.weight": -tensors["language_model.lm_head.weight"]}
    save_file(changed, folder / name, {"format": "pt"})
    there.upload(name, folder / name)
    there.write("config.json", good)
    assert import_base(ref, far, Options()).digest == import_base(str(folder), ws, Options()).digest


def test_a_copy_from_a_bucket_goes_on_where_it_was_killed(
    ws: Workspace, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ranges, several at once; each is read once, and no byte of another version is mixed in."""
    monkeypatch.setattr(ranges, "RANGE", 5_000)
    folder = tmp_path / "original"
    write_original(folder, SIGLIP)
    there = store.open_store(f"{bucket}/raw")
    for file in folder.iterdir():
        there.upload(file.name, file)
    there.write("tf_model.h5", b"of another framework")
    there.write("onnx/model.safetensors", b"of a folder below")
    with counting(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        connect.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(ranges, "CONNECTIONS", 1)  # else a read that the kill stops in another thread counts too
            assert killed_at(20, S3Store, ["read_range"], lambda: import_base(f"{bucket}/raw", ws, Options()))
        made = import_base(f"{bucket}/raw", ws, Options())
    read = [(name, range_) for name, range_, _ in proxy.reads if "/raw/" in name and range_]
    assert len(read) == len(set(read)) > 30
    assert sum(count for name, range_, count in proxy.reads if "/raw/" in name) == sum(
        file.stat().st_size for file in folder.iterdir()
    )
    assert made.digest == import_base(str(folder), ws, Options()).digest


def test_a_bucket_that_changes_while_it_is_copied_is_refused(
    ws: Workspace, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file is replaced after it was copied: what is here would be of two checkpoints."""
    write_original(tmp_path / "original", SIGLIP)
    there = store.open_store(f"{bucket}/raw")
    for file in (tmp_path / "original").iterdir():
        there.upload(file.name, file)
    real = ranges.download

    def download(*given: Any) -> list[str]:
        left = real(*given)
        there.write("config.json", (tmp_path / "original" / "config.json").read_bytes() + b" ")
        return left

    monkeypatch.setattr(ranges, "download", download)
    error = refused(f"{bucket}/raw", ws, Options())
    assert isinstance(error, Unavailable) and error.fact.endswith("changed while it was copied: config.json")
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 1000))
    with pytest.raises(UserError, match=r"has 1\.0 kB free; this needs \d+\.\d kB"):
        import_base(f"{bucket}/raw", Workspace(tmp_path / "other", ws.store, ""), Options())


def test_a_hub_name_without_network_names_the_line_to_type(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    med = refused("microsoft/llava-med-v1.5-mistral-7b", ws, Options()).fix
    imported = "medmim base import llava-med-v1.5-mistral-7b"
    assert f"`{imported} --terms llava-med --vision-tower checkpoint`, or with `--vision-tower stock`" in med
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CLIP").mkdir()
    med = refused("microsoft/llava-med-v1.5-mistral-7b", ws, Options("stock", "CLIP")).fix
    assert med.endswith(f"`{imported} --vision-tower stock --clip CLIP --terms llava-med`")
    name = "TIGER-Lab/Mantis-8B-siglip-llama3"
    folder = "Mantis-8B-siglip-llama3"
    line = f"`hf download {name} --local-dir {folder}`, then `medmim base import {folder} --terms llama3`"
    error = refused(name, ws, Options())
    assert "online only" in error.reason and "--hub" in error.fix and line in error.fix
    code = (
        "import sys, pathlib; from medmim.lvlm.importing.run import *; from medmim.run.workspace import workspace\n"
        f"try: import_base({name!r}, workspace(pathlib.Path({str(tmp_path / 'other')!r})), Options(hub=True))\n"
        "except Exception as error: sys.exit(f'{type(error).__name__}: {error}')"
    )
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert "Unavailable: the Hugging Face Hub cannot be reached" in ended.stderr, ended.stderr
    assert line in ended.stderr


def test_each_disk_needs_room_for_what_it_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no disk of its own")
    free = {tmp_path: 150, other: 150}
    monkeypatch.setattr(shutil, "disk_usage", lambda disk: shutil._ntuple_diskusage(999, 0, free[disk]))
    source.refuse_full_disk(tmp_path, other / "store", 100)
    source.refuse_full_disk(tmp_path, None, 100)
    with pytest.raises(UserError, match="has 150 bytes free; this needs 200 bytes") as caught:
        source.refuse_full_disk(tmp_path, tmp_path / "store" / "model", 100)
    assert "--home" in caught.value.fix
    free[other] = 50
    with pytest.raises(UserError, match="/dev/shm") as caught:
        source.refuse_full_disk(tmp_path, other / "store", 100)
    assert "--store" in caught.value.fix


def test_what_is_no_place_is_refused(ws: Workspace, tmp_path: Path) -> None:
    assert "no checkpoint at" in refused(tmp_path / "nothing", ws).fact
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refused(tmp_path / "empty", ws).fact
    assert source.is_hub_name("a/b") and not source.is_hub_name("a/b/c") and not source.is_hub_name("/a")
