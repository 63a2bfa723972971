"""Model checkpoints: where a reference leads, which family, base and terms that one has; no weight of it is read."""

import difflib
import json
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path

from medmim import __version__, hints, sniff, store, terms
from medmim.errors import Unavailable, UserError, from_os_error
from medmim.lvlm import adapters, soundness
from medmim.lvlm.family import Family
from medmim.lvlm.llava_med import LLAVA_MED
from medmim.lvlm.mantis import MANTIS
from medmim.progress import say
from medmim.run import provenance
from medmim.run.workspace import Workspace, cache_folder
from medmim.store.paths import existing

FAMILIES = (MANTIS, LLAVA_MED)
_SHOWN = 100  # characters of a reference that names nothing
_TEXT = ("*.json", "*.jinja", "*.txt", "*.model", "tokenizer*")  # all that a tokenizer of any kind may be read from


def shipped() -> list[str]:
    """Names of the bases that are shipped with the package."""
    return sorted(e.name for e in resources.files("medmim.shipped.bases").iterdir() if (e / "config.json").is_file())


def resolve(ref: str, ws: Workspace | None = None) -> Path:
    """The local folder of a model; one in S3 is fetched.

    Args:
        ref: A shipped name, a folder, `file://` or the URI of a model artifact.
        ws: The workspace; artifacts in S3 are copied into its cache. [default: .medmim]

    Raises:
        UserError: There is no such model, or the artifact is not a model.
    """
    found = locate(ref)
    if isinstance(found, Path):
        return found
    return store.fetch(found, ws.cache if ws else cache_folder(Path(".medmim")))


def resolve_text(ref: str, ws: Workspace) -> Path:
    """The local folder of a model for `load_text`; of one in S3, no weights are fetched. Errors as `resolve`."""
    found = locate(ref)
    return found if isinstance(found, Path) else store.fetch(found, ws.cache, _TEXT)


def locate(ref: str) -> Path | store.Artifact:
    """Where a model is; nothing of it is downloaded. Arguments and errors as `resolve`."""
    names = shipped()
    if ref in names:
        return Path(str(resources.files("medmim.shipped.bases") / ref))
    path = existing(ref.removeprefix("file://"))
    is_folder = path is not None and path.is_dir()
    if path is not None and is_folder and not (path / store.MANIFEST).is_file():
        return path
    if is_folder or "://" in ref:
        artifact = store.get(ref)
        if artifact.kind != "model":
            raise UserError(f"{ref} is not a model", reason=f"it is an artifact of kind '{artifact.kind}'")
        return artifact
    similar = difflib.get_close_matches(ref, names, 1)
    raise UserError(
        f"no model '{ref if len(ref) <= _SHOWN else ref[:_SHOWN] + '...'}'",
        reason="it is neither a folder, nor the URI of a model, nor a shipped base",
        fix=(f"did you mean '{similar[0]}'? " if similar else "") + f"shipped bases: {', '.join(names) or 'none'}",
    )


def upload_if_local(ref: str, ws: Workspace) -> str:
    """A reference to the model that is valid on every machine with this store; a local folder is uploaded to the store.

    Args:
        ref: As for `resolve`.
        ws: The workspace, for its store.

    Returns:
        `ref` itself where it is a shipped base or the URI of a model in S3, else the URI of the copy in the store.

    Raises:
        UserError: As `resolve` does, or its weights are damaged, or the store refuses.
    """
    found = locate(ref)
    if ref in shipped():
        return ref
    if "://" in ref and not ref.startswith("file://"):
        return ref
    path = found if isinstance(found, Path) else resolve(ref, ws)
    known = store.find(str(path))
    if known is not None and known.uri.startswith(f"{ws.store}/"):
        return known.uri
    soundness.check_weights(path)  # before it is copied for minutes, and refused by each worker
    if adapters.are_in(path):
        upload_if_local(base_of(path)[0], ws)
    say(f"copying the model {path} to the store")
    made_from = {"medmim": __version__, "step": "copy of a folder", "terms": terms_of(ref).as_dict()}
    return store.publish(path, ws.store, "model", known.counts if known else {}, made_from).uri


def terms_of(ref: str) -> terms.Terms:
    """The terms of a model; unknown where nothing states them.

    Args:
        ref: As for `resolve`.

    Raises:
        UserError: As `resolve` does, or its `terms.json` is not a record of terms.
    """
    found = locate(ref)
    if not isinstance(found, Path):
        return provenance.terms_of(found)
    file = found / terms.FILE
    return terms.parse(file.read_bytes(), str(file)) if file.is_file() else terms.UNKNOWN


def base_of(where: Path | store.Artifact) -> tuple[str, Path | store.Artifact]:
    """The base of adapters: a reference, and where it is; nothing of it is downloaded.

    Raises:
        UserError: It is not there, or is another one than the adapters were trained on.
        Unavailable: The store does not answer.
    """
    name = where if isinstance(where, Path) else where.uri
    ref, wanted = adapters.base_of(where)
    merge = "or run the adapters' recipe again with `finetune.lora.merge: true`, whose model needs no base"
    try:
        found = locate(ref)
    except Unavailable:
        raise
    except UserError as error:
        raise UserError(
            f"the base of the adapters {name} is missing: {ref}",
            reason=f"{error.fact}; the adapters were trained on the base with digest {wanted}",
            fix=f"restore it there, from a backup or with the import or training that made it, {merge}",
        ) from None
    if (given := digest(found)) != wanted:
        raise UserError(
            f"{ref} is not the base of the adapters {name}",
            reason=f"its digest is {given}, and the adapters were trained on the base with digest {wanted}",
            fix=f"restore that base there, {merge}",
        )
    return ref, found


def digest(where: Path | store.Artifact) -> str:
    """Content digest of the files that decide what a model answers; a README beside them does not count.

    Of adapters, one of the files names the digest of the base. Of an artifact, it is read from the manifest: neither
    downloaded nor hashed.
    """
    if isinstance(where, Path):
        files = {
            file.name: {"sha256": store.file_digest(file)} for glob in soundness.CONTENT for file in where.glob(glob)
        }
        return store.content_digest(files)
    wanted = [
        name for name in where.files if "/" not in name and any(fnmatchcase(name, glob) for glob in soundness.CONTENT)
    ]
    return store.content_digest({name: where.files[name] for name in wanted})


def family_of(where: Path | store.Artifact) -> Family:
    """The family of a checkpoint, read from its config.json; of an artifact, no other file is read.

    Raises:
        UserError: A missing or broken config, or an architecture of no supported family.
    """
    path = where if isinstance(where, Path) else where.uri
    text = config_text(where)
    if text is None:
        raise UserError(
            f"{path} is not a model: it has no config.json",
            fix="give the folder of a LLaVA checkpoint in the Hugging Face layout",
        )
    try:
        config = json.loads(text)
        kinds = (config["vision_config"]["model_type"], config["text_config"]["model_type"])
    except (ValueError, KeyError, TypeError, RecursionError):
        kind = "an unreadable file"
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            kind = f"of model_type '{json.loads(text)['model_type']}'"
        raise UserError(f"{path}/config.json is {kind}, not a LLaVA configuration", fix=supported()) from None
    for family in FAMILIES:
        if kinds == (family.vision, family.text):
            return family
    raise UserError(
        f"{path} is a checkpoint of another family: {kinds[0]} + {kinds[1]}",
        reason="its chat format is not known, and a wrong format would silently lower every score",
        fix=supported(),
    )


def config_text(where: Path | store.Artifact) -> str | bytes | None:
    """The text of its config.json; None where there is none."""
    if not isinstance(where, Path):
        with suppress(FileNotFoundError):
            return store.read_file(where, "config.json")
        return None
    file = where / "config.json"
    try:
        found = file.exists()
    except OSError as error:
        raise from_os_error(error, "reading the model") from None
    return sniff.read_text(file, "a LLaVA configuration in JSON") if found else None


def supported() -> str:
    """The families, for the fix of an error."""
    known = ", ".join(f"{f.name} ({f.vision} + {f.text})" for f in FAMILIES)
    return f"give a checkpoint of: {known}; what `{hints.command('zoo', 'list')}` shows can be asked, not fine-tuned"


def check_weights_of(ref: str, folder: Path) -> None:
    """Check what can be known of a model's weights without fetching them; arguments and folder of `resolve_text`.

    Raises:
        UserError: As `check_weights`, where the weights are on this disk; else if the model has none.
    """
    found = locate(ref)
    if isinstance(found, Path) or any(folder.glob(soundness.WEIGHTS)):
        soundness.check_weights(folder)
    elif not any(fnmatchcase(name, soundness.WEIGHTS) for name in found.files):
        raise soundness.no_weights(found.uri)
