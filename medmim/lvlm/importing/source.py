"""Brings a checkpoint onto this disk: a folder, `s3://`, or a name of the Hugging Face Hub."""

import os
import re
import shlex
import shutil
from pathlib import Path

from medmim import hints, store
from medmim.errors import Unavailable, UserError, from_os_error, require
from medmim.progress import say
from medmim.run.workspace import Workspace

# What a checkpoint is read from; weights of other frameworks stay where they are.
_WANTED = ("*.safetensors", "*.json", "tokenizer.model", "*.jinja")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_name(ref: str) -> bool:
    """Whether it has the form `owner/name` and is no folder."""
    return bool(_HUB_NAME.fullmatch(ref)) and not Path(ref).exists()


def local(ref: str, ws: Workspace, work: Path, hub: bool) -> Path:
    """A local folder with the checkpoint's files.

    Args:
        ref: A folder, `file://`, the address of an artifact or of a folder in S3, or a hub name.
        ws: The workspace, for its cache.
        work: Where a download is put; what is there already is not downloaded again.
        hub: Whether the network may be asked for a hub name.

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
    lines = download_lines(ref)
    if not hub:
        raise UserError(
            f"{ref} is the name of a checkpoint on the Hugging Face Hub, not a folder",
            reason="medmim goes online only when it is told to",
            fix=f"add --hub; or, where there is a network: {lines}",
        )
    return _from_hub(ref, work, lines)


def download_lines(name: str) -> str:
    """The commands that bring a checkpoint in by hand."""
    folder = name.rpartition("/")[2]
    download = shlex.join(["hf", "download", name, "--local-dir", folder])
    return f"`{download}`, then `{hints.command('base', 'import', folder)}`"


def _from_store(ref: str, work: Path) -> Path:
    where = store.open_store(ref.rstrip("/"))
    sizes = {key: size for key, (_, size) in where.ages("").items() if "/" not in key}
    wanted = {key: size for key, size in sizes.items() if any(Path(key).match(pattern) for pattern in _WANTED)}
    if not wanted:
        raise UserError(
            f"there is no checkpoint at {ref}",
            reason=f"{len(sizes)} files lie there, none of them safetensors or JSON" if sizes else "nothing lies there",
            fix="give the prefix below which config.json lies",
        )
    work.mkdir(parents=True, exist_ok=True)
    for key, size in sorted(wanted.items()):
        path = work / key
        if not path.is_file() or path.stat().st_size != size:
            say(f"copying {ref}/{key} ({size / 1e9:.1f} GB)")
            where.download(key, path)
    return work


def _from_hub(name: str, work: Path, lines: str) -> Path:
    os.environ["HF_HUB_OFFLINE"] = "0"  # --hub says so; before the import, which reads it. Images set it to 1.
    hub = require("huggingface_hub", "finetune")
    errors = require("huggingface_hub.errors", "finetune")
    httpx = require("httpx", "finetune")
    say(f"downloading {name} from the Hugging Face Hub")
    try:
        return Path(hub.snapshot_download(name, local_dir=work, allow_patterns=list(_WANTED)))
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


def refuse_full_disk(folder: Path, needed: int) -> None:
    """Check for room before hours of work.

    Raises:
        UserError: The disk has less than `needed` bytes.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"the disk of {folder} has {free / 1e9:.1f} GB free; this needs {needed / 1e9:.1f} GB",
            reason="the converted weights lie there until they are in the store",
            fix="free some space, or give another folder with --home",
        )
