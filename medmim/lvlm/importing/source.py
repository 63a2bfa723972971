"""Brings a checkpoint onto this disk: a folder, `s3://`, or a name of the Hugging Face Hub."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from medmim import hints, store
from medmim.errors import Unavailable, UserError, from_os_error, require
from medmim.lvlm.importing.convert import refuse_pickled
from medmim.progress import say
from medmim.run.workspace import Workspace
from medmim.store.folder import write_atomically

# What a checkpoint is read from; weights of other frameworks stay where they are.
_WANTED = ("*.safetensors", "*.json", "tokenizer.model", "*.jinja")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LLAVA_MED = "microsoft/llava-med-v1.5-mistral-7b"
TERMS = {"TIGER-Lab/Mantis-8B-siglip-llama3": "llama3", _LLAVA_MED: "llava-med"}  # hub name -> whose terms


def is_hub_name(ref: str) -> bool:
    """Whether it has the form `owner/name` and is no folder."""
    return bool(_HUB_NAME.fullmatch(ref)) and not Path(ref).exists()


def local(ref: str, ws: Workspace, work: Path, hub: bool, given: Sequence[str] = ()) -> Path:
    """A local folder with the checkpoint's files.

    Args:
        ref: A folder, `file://`, the address of an artifact or of a folder in S3, or a hub name.
        ws: The workspace, for its cache.
        work: Where a download is put; what is there already in the same version is not downloaded again.
        hub: Whether the network may be asked for a hub name.
        given: Options of the import, for the commands that an error prints.

    Raises:
        UserError: There is nothing, or a hub name without permission or network.
        Unavailable: The store does not answer.
    """
    path = hints.expanded(ref.removeprefix("file://"))
    if path.is_dir():
        return path
    if ref.startswith("s3://"):
        artifact = store.find(ref)
        return store.fetch(artifact, ws.cache) if artifact else _from_store(ref, work)
    if not is_hub_name(ref):
        raise UserError(
            f"there is no checkpoint at {ref}",
            reason="it is neither a folder, nor s3://BUCKET/PREFIX, nor a hub name such as OWNER/NAME",
            fix="check the path",
        )
    lines = download_lines(ref, given)
    if not hub:
        raise UserError(
            f"{ref} is the name of a checkpoint on the Hugging Face Hub, not a folder",
            reason="medmim goes online only when it is told to",
            fix=f"add --hub; or, where there is a network: {lines}",
        )
    return _from_hub(ref, work, lines)


def download_lines(name: str, given: Sequence[str] = ()) -> str:
    """The commands that bring a checkpoint in by hand.

    Args:
        name: Its hub name.
        given: Options of the import; those that the name needs and that are not among them are added: the terms of a
            folder are not known, and LLaVA-Med's tower must be chosen.
    """
    folder = name.rpartition("/")[2]
    words, other = [*given], ""
    if name in TERMS and "--terms" not in given:
        words += ["--terms", TERMS[name]]
    if name == _LLAVA_MED and "--vision-tower" not in given:
        words += ["--vision-tower", "checkpoint"]
        other = ", or with `--vision-tower stock`"
    download = shlex.join(["hf", "download", name, "--local-dir", folder])
    return f"`{download}`, then `{hints.command('base', 'import', folder, *words)}`{other}"


def _from_store(ref: str, work: Path) -> Path:
    where = store.open_store(ref.rstrip("/"))
    listed = sorted(key for key in where.ages("") if "/" not in key)
    wanted = [key for key in listed if any(Path(key).match(pattern) for pattern in _WANTED)]
    copied = f"`{shlex.join(['aws', 's3', 'cp', '--recursive', ref, 'FOLDER'])}`"
    refuse_pickled(ref, listed, "FOLDER", f"copy them ({copied}), ")
    if not wanted:
        raise UserError(
            f"there is no checkpoint at {ref}",
            reason=f"{len(listed)} files lie there, none of them safetensors or JSON"
            if listed
            else "nothing lies there",
            fix="give the prefix below which config.json lies",
        )
    work.mkdir(parents=True, exist_ok=True)
    for path in work.iterdir():
        if path.name not in wanted:  # of an earlier try, removed from the bucket since
            path.unlink()
    # beside the files: which version of each lies here, so that none is taken for one that was replaced since
    journal = work.with_name(f"{work.name}-versions.json")
    kept: dict[str, str] = {}
    with suppress(FileNotFoundError, ValueError):
        kept = json.loads(journal.read_text("utf-8"))
    try:
        for key in wanted:
            path, (size, version) = work / key, where.version(key)
            if not path.is_file() or not version or kept.get(key) != version:
                say(f"copying {ref}/{key} ({size / 1e9:.1f} GB)")
                where.download(key, path)
                kept[key] = version
                write_atomically(journal, [json.dumps(kept).encode()])
        changed = [key for key in wanted if where.version(key)[1] != kept[key]]
    except FileNotFoundError as error:
        changed = [str(error.filename)]
    if changed:
        raise Unavailable(
            f"{ref} changed while it was copied: {', '.join(changed)}",
            reason="files of two versions would be mixed",
            fix="run the same command again once all files are there",
        )
    return work


def _from_hub(name: str, work: Path, lines: str) -> Path:
    os.environ["HF_HUB_OFFLINE"] = "0"  # --hub says so; before the import, which reads it. Images set it to 1.
    hub = require("huggingface_hub", "finetune")
    errors = require("huggingface_hub.errors", "finetune")
    httpx = require("httpx2", "finetune")  # what huggingface_hub 1 is written with; its errors come through
    say(f"downloading {name} from the Hugging Face Hub")
    folder = name.rpartition("/")[2]
    download = f"`{shlex.join(['hf', 'download', name, '--local-dir', folder])}`"
    try:
        found = Path(hub.snapshot_download(name, local_dir=work, allow_patterns=list(_WANTED)))
        if not any(found.glob("*.safetensors")):  # pickles were left there
            names = [file.rfilename for file in hub.model_info(name).siblings or ()]
            refuse_pickled(name, names, folder, f"download them ({download}), ")
        return found
    except errors.GatedRepoError as error:
        raise UserError(
            f"{name} is gated: its terms must be accepted first",
            reason=str(error).split("\n", 1)[0],
            fix=f"accept them on its page, `hf auth login`, then run this again; or {lines}",
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"the Hub has no {name}, or this account may not see it", fix="check the name; `hf auth login`"
        ) from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, httpx.HTTPError, ConnectionError) as error:
        raise Unavailable(
            f"the Hugging Face Hub cannot be reached for {name}",
            reason=str(error).split("\n", 1)[0],
            fix=f"where there is a network: {lines}",
        ) from None
    except OSError as error:
        raise from_os_error(error, f"downloading {name}") from None


def refuse_full_disk(home: Path, store_folder: Path | None, size: int) -> None:
    """Check for room before hours of work.

    Args:
        home: The converted weights lie there until they are in the store.
        store_folder: The store, where it is a folder: it gets a copy of them.
        size: Bytes of the converted weights.

    Raises:
        UserError: A disk has too little space; one that holds both folders needs it twice.
    """
    needed: dict[int, tuple[Path, int, str]] = {}
    for folder, option in ((home, "--home"), (store_folder, "--store")):
        if folder is not None:
            while not folder.exists():
                folder = folder.parent
            disk = folder.stat().st_dev
            before = needed.get(disk, (folder, 0, option))
            needed[disk] = (before[0], before[1] + size, before[2])
    for folder, asked, option in needed.values():
        free = shutil.disk_usage(folder).free
        if free < asked:
            raise UserError(
                f"the disk of {folder} has {free / 1e9:.1f} GB free; this needs {asked / 1e9:.1f} GB",
                reason="the converted weights lie in the home until they are in the store",
                fix=f"free some space, or give another folder with {option}",
            )
