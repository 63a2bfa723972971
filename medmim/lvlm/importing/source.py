"""Brings a checkpoint onto this disk: a folder, `s3://`, or a name of the Hugging Face Hub."""

import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from medmim import hints, store
from medmim.errors import Unavailable, UserError, from_os_error, require
from medmim.lvlm.importing.convert import refuse_pickled
from medmim.lvlm.importing.layouts import HUB_NAME
from medmim.progress import say, size
from medmim.run.workspace import Workspace
from medmim.store import ranges

# What a checkpoint is read from; weights of other frameworks stay where they are.
_SETTINGS = ("*.json", "tokenizer.model", "*.jinja")
_WEIGHTS = ("*.safetensors",)
_LLAVA_MED = "microsoft/llava-med-v1.5-mistral-7b"
TERMS = {"TIGER-Lab/Mantis-8B-siglip-llama3": "llama3", _LLAVA_MED: "llava-med"}  # hub name -> whose terms


def is_hub_name(ref: str) -> bool:
    """Whether it has the form `owner/name` and is no folder."""
    return bool(HUB_NAME.fullmatch(ref)) and not Path(ref).exists()


def local(
    ref: str, ws: Workspace, work: Path, hub: bool, by_hand: str, then: str = "import", weights: bool = True
) -> Path:
    """A local folder with the checkpoint's files.

    Args:
        ref: A folder, `file://`, the address of an artifact or of a folder in S3, or a hub name.
        ws: The workspace, for its cache.
        work: Where a download is put; what is there already in the same version is not downloaded again.
        hub: Whether the network may be asked for a hub name.
        by_hand: How a hub name is brought in without it, for errors: `download_lines` or `layouts.clip_lines`.
        then: What the user does with a folder that was brought in by hand, for errors: `then` and its path.
        weights: Whether they are wanted, not its settings alone.

    Raises:
        UserError: There is nothing, or a hub name without permission or network.
        Unavailable: The store does not answer.
    """
    path = hints.expanded(ref.removeprefix("file://"))
    if path.is_dir():
        return path
    if ref.startswith("s3://"):
        artifact = store.find(ref)
        return store.fetch(artifact, ws.cache) if artifact else _from_store(ref, work, then, weights)
    if not is_hub_name(ref):
        raise UserError(
            f"there is no checkpoint at {ref}",
            reason="it is neither a folder, nor s3://BUCKET/PREFIX, nor a hub name such as OWNER/NAME",
            fix="check the path",
        )
    if not hub:
        raise UserError(
            f"{ref} is the name of a checkpoint on the Hugging Face Hub, not a folder",
            reason="medmim goes online only when it is told to",
            fix=f"add --hub; or, where there is a network: {by_hand}",
        )
    return _from_hub(ref, work, by_hand, then, weights)


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
    return f"{download(name)}, then `{hints.command('base', 'import', folder, *words)}`{other}"


def download(name: str) -> str:
    """The command that downloads a checkpoint of the Hub into a folder of its last name."""
    return f"`{shlex.join(['hf', 'download', name, '--local-dir', name.rpartition('/')[2]])}`"


def page(name: str) -> str:
    """The page of a checkpoint on the Hub, where its terms are accepted."""
    return f"https://huggingface.co/{name}"


def _from_store(ref: str, work: Path, then: str, weights: bool) -> Path:
    where = store.open_store(ref.rstrip("/"))
    listed = sorted(key for key in where.ages("") if "/" not in key)
    wanted = [key for key in listed if any(Path(key).match(pattern) for pattern in patterns(weights))]
    copied = f"`{shlex.join(['aws', 's3', 'cp', '--recursive', ref, 'FOLDER'])}`"
    if weights:
        refuse_pickled(ref, listed, "FOLDER", f"copy them ({copied}), ", f"{then} FOLDER")
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
        if path.is_file() and path.name not in wanted:  # of an earlier try, removed from the bucket since
            path.unlink()
    try:
        versions = {key: where.version(key) for key in wanted}
        files = {key: {"bytes": size, "version": version} for key, (size, version) in versions.items()}
        missing = ranges.missing_bytes(files, work)
        refuse_full_disk(work, None, missing)
        say(f"copying {ref}: {len(files)} files, {size(missing)}")
        changed = ranges.download(where, "", files, work, "checkpoint")
        changed += [key for key in wanted if where.version(key) != versions[key]]
    except FileNotFoundError as error:
        changed = [str(error.filename)]
    except ranges.DiskError as failed:
        raise from_os_error(failed.error, f"copying {ref} to {work}") from None
    if changed:
        raise Unavailable(
            f"{ref} changed while it was copied: {', '.join(sorted({*changed}))}",
            reason="files of two versions would be mixed",
            fix="run the same command again once all files are there",
        )
    return work


def _from_hub(name: str, work: Path, by_hand: str, then: str, weights: bool) -> Path:
    os.environ["HF_HUB_OFFLINE"] = "0"  # --hub says so; before the import, which reads it. Images set it to 1.
    hub = require("huggingface_hub", "finetune")
    errors = require("huggingface_hub.errors", "finetune")
    httpx = require("httpx2", "finetune")  # what huggingface_hub 1 is written with; its errors come through
    say(f"downloading {name} from the Hugging Face Hub")
    folder = name.rpartition("/")[2]
    try:
        found = Path(hub.snapshot_download(name, local_dir=work, allow_patterns=list(patterns(weights))))
        if weights and not any(found.glob("*.safetensors")):  # pickles were left there
            names = [file.rfilename for file in hub.model_info(name).siblings or ()]
            refuse_pickled(name, names, folder, f"download them ({download(name)}), ", f"{then} {folder}")
        return found
    except errors.GatedRepoError as error:
        raise UserError(
            f"{name} is gated: its terms must be accepted first",
            reason=str(error).split("\n", 1)[0],
            fix=f"accept them on {page(name)}, `hf auth login`, then run this again; or {by_hand}",
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"the Hub has no {name}, or this account may not see it", fix="check the name; `hf auth login`"
        ) from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, httpx.HTTPError, ConnectionError) as error:
        raise Unavailable(
            f"the Hugging Face Hub cannot be reached for {name}",
            reason=str(error).split("\n", 1)[0],
            fix=f"where there is a network: {by_hand}",
        ) from None
    except OSError as error:
        raise from_os_error(error, f"downloading {name}") from None


def patterns(weights: bool = True) -> tuple[str, ...]:
    """The files of a checkpoint that are read, as globs."""
    return _SETTINGS + (_WEIGHTS if weights else ())


def refuse_full_disk(home: Path, store_folder: Path | None, added: int) -> None:
    """Check for room before hours of work.

    Args:
        home: Copied and converted weights lie there until they are in the store.
        store_folder: The store, where it is a folder and gets a copy of them.
        added: Bytes that are written.

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
            needed[disk] = (before[0], before[1] + added, before[2])
    for folder, asked, option in needed.values():
        free = shutil.disk_usage(folder).free
        if free < asked:
            raise UserError(
                f"the disk of {folder} has {size(free)} free; this needs {size(asked)}",
                reason="copied and converted weights lie in the home until they are in the store",
                fix=f"free some space, or give another folder with {option}",
            )
