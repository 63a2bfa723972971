"""Where a checkpoint comes from: a bucket, the Hub, a folder; and the room that it needs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from medmim import store, terms
from medmim.errors import UserError
from medmim.lvlm.importing import source
from medmim.lvlm.importing.run import Options, import_base
from medmim.run.provenance import terms_of
from medmim.run.workspace import Workspace
from tests.support import hub_server
from tests.support.importing import SIGLIP, TOWER, refused
from tests.support.originals import LLAVA_MED, write_original

_FROM_HUB = """
import sys
from pathlib import Path
from medmim.errors import UserError
from medmim.lvlm.importing.run import Options, import_base
from medmim.run.provenance import terms_of
from medmim.run.workspace import workspace
for name in sys.argv[2:]:
    try:
        print(terms_of(import_base(name, workspace(Path(sys.argv[1])), Options(hub=True))).text[0])
    except UserError as error:
        print(" ".join(str(error).split()))
"""


@pytest.mark.long
def test_only_what_the_hub_sent_has_the_terms_of_its_name(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, pickled = "TIGER-Lab/Mantis-8B-siglip-llama3", "owner/pickled"
    write_original(tmp_path / "hub" / name, SIGLIP)
    shutil.copytree(tmp_path / "hub" / name, tmp_path / "hub" / pickled)
    for file in (tmp_path / "hub" / pickled).glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    with hub_server.serving(tmp_path / "hub") as address:
        done = subprocess.run(
            [sys.executable, "-c", _FROM_HUB, str(tmp_path / "other"), name, pickled],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "HF_ENDPOINT": address, "HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"},
        )
    downloaded, refusal = done.stdout.splitlines()
    assert downloaded == terms.PUBLISHED["llama3"].text[0], done.stderr
    assert f"{pickled} are pickled: model-00001-of-00002.bin" in refusal and "hf download" in refusal
    monkeypatch.chdir(tmp_path / "hub")
    assert terms_of(import_base(name, ws, Options())) == terms.UNKNOWN


def test_a_checkpoint_comes_from_a_bucket_and_goes_into_one(ws: Workspace, bucket: str, tmp_path: Path) -> None:
    write_original(tmp_path / "original", LLAVA_MED)
    near = import_base(str(tmp_path / "original"), ws, TOWER)
    there = store.open_store(f"{bucket}/raw/llava-med")
    for file in (tmp_path / "original").iterdir():
        if file.is_file():
            there.upload(file.name, file)
    (tmp_path / "clip").mkdir()
    shutil.copy(tmp_path / "original" / "clip" / "config.json", tmp_path / "clip")
    far = Workspace(tmp_path / "far", f"{bucket}/store", "")
    chosen = Options(tower="checkpoint", clip=tmp_path / "clip")
    artifact = import_base(f"{bucket}/raw/llava-med", far, chosen)
    assert artifact.uri.startswith(bucket) and artifact.digest == near.digest
    assert not list((far.home / "work").iterdir())
    with pytest.raises(UserError, match="no checkpoint at"):
        import_base(f"{bucket}/raw/other", far, chosen)
    store.open_store(f"{bucket}/raw/pickled").write("pytorch_model.bin", b"x")
    store.open_store(f"{bucket}/raw/pickled").write("config.json", b"{}")
    with pytest.raises(UserError, match="are pickled: pytorch_model.bin") as caught:
        import_base(f"{bucket}/raw/pickled", far, chosen)
    assert "aws s3 cp" in caught.value.fix and "python -c" in caught.value.fix


def test_what_was_replaced_in_the_bucket_is_copied_again_and_only_that(
    ws: Workspace, bucket: str, tmp_path: Path
) -> None:
    """A file of equal length, after an import that was refused: the copies of the first try are still there."""
    folder, ref = tmp_path / "original", f"{bucket}/raw"
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
    before = {file.name: file.stat().st_ino for file in copy.iterdir()}
    there.write("config.json", good.replace(b'"projector_hidden_act": "gelu"', b'"projector_hidden_act": "nope"'))
    there.delete("zz.safetensors")
    with pytest.raises(UserError, match="not a configuration that transformers accepts"):
        import_base(ref, far, Options())
    after = {file.name: file.stat().st_ino for file in copy.iterdir()}
    assert before.keys() - after.keys() == {"zz.safetensors"}
    assert {file for file in after if before[file] != after[file]} == {"config.json"}
    changed = tensors | {"language_model.lm_head.weight": -tensors["language_model.lm_head.weight"]}
    save_file(changed, folder / name, {"format": "pt"})
    there.upload(name, folder / name)
    there.write("config.json", good)
    assert import_base(ref, far, Options()).digest == import_base(str(folder), ws, Options()).digest


def test_a_hub_name_without_network_names_the_line_to_type(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    med = refused("microsoft/llava-med-v1.5-mistral-7b", ws, Options()).fix
    imported = "medmim base import llava-med-v1.5-mistral-7b"
    assert f"`{imported} --terms llava-med --vision-tower checkpoint`, or with `--vision-tower stock`" in med
    med = refused("microsoft/llava-med-v1.5-mistral-7b", ws, Options("stock", Path("CLIP"))).fix
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
    with pytest.raises(UserError, match="needs 0.0 GB") as caught:
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
