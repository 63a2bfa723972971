"""Models of the zoo in a store: imported under a name, and found by it.

Their files are kept as they are; only what decides an answer is taken, and `terms.json` is added.
"""

import difflib
import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medmim import hints, progress, store, terms
from medmim.errors import Unavailable, UserError, wrap_os_errors
from medmim.lvlm import llava, soundness
from medmim.lvlm.importing import show, source
from medmim.lvlm.zoo import entry as zoo
from medmim.lvlm.zoo import model as models
from medmim.lvlm.zoo import processors
from medmim.run.lock import locked
from medmim.run.provenance import provenance
from medmim.run.workspace import Workspace
from medmim.sample import digest_of
from medmim.store import Artifact
from medmim.terms import Terms

REVISION = 1
STEP = "import"  # as a base is: no step makes it again, so that `gc` keeps it
PREFIX = "zoo:"
STAND_IN = "tiny-"
NOISE = "stand-in: random weights"  # begins the terms of one
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def import_model(name: str, ref: str, ws: Workspace, hub: bool = False, allowed: Terms | None = None) -> Artifact:
    """Publish a checkpoint of a class of the zoo under a name.

    Args:
        name: By which it is found: a model of the zoo, whose checkpoint it is then, or any other name.
        ref: A folder, `s3://`, or a name of the Hub; empty: where the zoo says that the model is.
        ws: Its store receives the model. What is downloaded is below its home, and continued after a kill.
        hub: Whether the network may be asked for a name of the Hub.
        allowed: Its terms; else those in its `terms.json`, else those of the zoo's model.

    Returns:
        The artifact. Its counts: `zoo` (the name), `model_type`, `parameters`.

    Raises:
        UserError: No such model, a gated one without access, a class that is not proven, damaged files, another class
            or chat template than the zoo's model has, or a store that has this checkpoint under another name.
        Unavailable: The Hub or the store does not answer, or another process is importing the same.
    """
    entry = zoo.named(name)
    if entry is None:
        if not ref:
            zoo.find(name)
        if not _NAME.fullmatch(name):
            raise UserError(
                f"'{name[:100]}' cannot be the name of a model",
                reason="a name has lower-case letters, digits, dots, hyphens and underscores, 64 at most",
                fix=f"`{hints.command('zoo', 'import', 'NAME', 'SOURCE')}`",
            )
    elif entry.format is not None:
        raise UserError(
            f"{name} is asked in its own format, which its checkpoint is converted for",
            fix=source.download_lines(entry.hub),
        )
    ref = ref or (entry.hub if entry else "")
    work = ws.home / "work" / f"{STEP}-{digest_of([PREFIX, str(REVISION), name, ref])[:16]}"
    with wrap_os_errors(f"importing {ref}"):
        work.parent.mkdir(parents=True, exist_ok=True)

        def busy(holder: str) -> UserError:
            return Unavailable(f"{holder} is importing {ref} in {work}", fix="wait for it, or give another --home")

        with locked(work, busy):
            folder = source.local(ref, ws, work / "source", hub, by_hand(name, ref))
            _check(folder, name, entry)
            allowed = allowed or _terms(folder, entry)
            artifact = publish(folder, name, ws, work / "model", allowed, {"source": ref})
            shutil.rmtree(work, ignore_errors=True)
    return artifact


def publish(
    folder: Path, name: str, ws: Workspace, work: Path, allowed: Terms, made_from: Mapping[str, Any]
) -> Artifact:
    """Publish what decides the answers of a checkpoint in a folder, under a name. Nothing is copied on the way.

    Args:
        folder: The checkpoint.
        name: By which it is found.
        ws: The workspace, for its store.
        work: A folder that is made and removed.
        allowed: Its terms.
        made_from: For its provenance.

    Raises:
        UserError: The store has the same checkpoint under another name, or refuses.
    """
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    work.mkdir(parents=True)
    try:
        for pattern in source.patterns():
            for file in folder.glob(pattern):
                if file.is_file() and file.name not in (store.MANIFEST, store.PROVENANCE, terms.FILE):
                    (work / file.name).symlink_to(file.resolve())
        (work / terms.FILE).write_text(allowed.dump(), encoding="utf-8")
        kind = models.model_type(folder)
        counts = {"zoo": name, "model_type": kind, "parameters": show.parameters(folder)}
        more = {"zoo": name, "asking": asdict(zoo.asking_of(kind)), **made_from}
        artifact = store.publish(work, ws.store, "model", counts, provenance(STEP, REVISION, {}, None, allowed) | more)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if (known := artifact.counts.get("zoo")) != name:
        raise UserError(
            f"{ws.store} has this checkpoint already, " + (f"as {PREFIX}{known}" if known else "without a name"),
            fix=f"name it {PREFIX}{known}" if known else f"name it by its URI, {artifact.uri}",
        )
    return artifact


def imported(ws: Workspace) -> Iterator[Artifact]:
    """The models in the store that have a name; it is `zoo` in their counts."""
    return (one for one in show.models(ws) if "zoo" in one.counts)


def by_name(ws: Workspace) -> dict[str, list[str]]:
    """Name -> URIs in the store, of models that have a name and of bases in the format of a model of the zoo."""
    of_format = {entry.format: entry.name for entry in zoo.entries() if entry.format}
    found: dict[str, list[str]] = {}
    for one in show.models(ws):
        name = one.counts.get("zoo") or ("layout" in one.counts and of_format.get(one.counts["family"]))
        if name:
            found.setdefault(str(name), []).append(one.uri)
    return dict(sorted(found.items()))


def find(name: str, ws: Workspace) -> str:
    """The URI of the one model that was imported under a name.

    Raises:
        UserError: There is none, with the commands that bring it in or the closest name; or there are several.
    """
    there = list(imported(ws))
    if found := [one.uri for one in there if one.counts["zoo"] == name]:
        return only(name, found, ws)
    if entry := zoo.named(name):
        fix = bring_in(entry, ws)
    elif name.startswith(STAND_IN):
        fix = f"`{ws.command('zoo', 'tiny')}` makes the stand-ins"
    else:
        known = sorted({*(one.name for one in zoo.entries()), *(str(one.counts["zoo"]) for one in there)})
        near = difflib.get_close_matches(name.lower(), known, 1, 0.5)
        fix = (f"did you mean '{PREFIX}{near[0]}'? " if near else "") + f"names: {', '.join(known)}"
    raise UserError(f"{PREFIX}{name[:100]}: no such model was imported into {ws.store}", fix=fix)


def uris(name: str, ws: Workspace) -> list[str]:
    """The URIs of all checkpoints that were imported under a name."""
    return [one.uri for one in imported(ws) if one.counts["zoo"] == name]


def only(name: str, found: Sequence[str], ws: Workspace) -> str:
    """The one that is found. Raises a UserError where there are several."""
    if len(found) == 1:
        return found[0]
    raise UserError(
        f"{PREFIX}{name}: {len(found)} checkpoints were imported under this name into {ws.store}",
        fix="name one of them by its URI",
        problems=found,
    )


def bring_in(entry: zoo.Entry, ws: Workspace) -> str:
    """The commands that bring a model of the zoo into the store."""
    if entry.format is not None:
        return source.download_lines(entry.hub)
    with_hub = ws.command("zoo", "import", entry.name, "--hub")
    return f"`{with_hub}`; or, where there is a network: {by_hand(entry.name, entry.hub)}"


def by_hand(name: str, hub: str, *verb: str) -> str:
    """How a checkpoint of the Hub is brought in without asking the network here.

    Args:
        name: Of the model.
        hub: Its name on the Hub.
        verb: The command of `zoo` that is then given the folder. [default: the import under its name]
    """
    entry = zoo.named(name)
    terms = f"accept the terms on {source.page(hub)}, `hf auth login`, " if entry and entry.gated else ""
    then = hints.command("zoo", *(verb or ("import", name)), hub.rpartition("/")[2])
    return f"{terms}{source.download(hub)}, then `{then}`"


def noise(allowed: Terms) -> list[str]:
    """What the terms of stand-ins say, whose answers mean nothing; empty where none is among what they hold for."""
    return [line for line in allowed.text if line.startswith(NOISE)]


def _check(folder: Path, name: str, entry: zoo.Entry | None) -> None:
    if models.is_ours(folder):
        raise UserError(
            f"{folder} is a checkpoint of a family that is asked in its own format",
            fix=f"`{hints.command('base', 'import', str(folder))}` (docs/bases.md)",
        )
    models.refuse_unusable(folder)
    soundness.check_weights(folder)
    kind = models.model_type(folder)
    if entry is not None and kind not in entry.classes:
        raise UserError(
            f"{folder} is not {name}: its model_type is '{kind}', not '{entry.classes[0]}'",
            fix="give the checkpoint of this model, or import it under a name of your own",
        )
    template = hashlib.sha256(processors.require_template(folder).encode()).hexdigest()
    if entry is not None and entry.template not in (None, template):
        raise UserError(
            f"{folder} has another chat template than {name}: {template[:16]}",
            reason=f"the one that the zoo's checkpoint was checked with is {str(entry.template)[:16]}",
            fix="give the checkpoint as it was published, or import it under a name of your own",
        )
    with llava.reading(folder, kind):
        processors.read(folder, kind)


def _terms(folder: Path, entry: zoo.Entry | None) -> Terms:
    file = folder / terms.FILE
    if file.is_file():
        return terms.parse(file.read_bytes(), str(file))
    known = terms.PUBLISHED.get(entry.terms, terms.UNKNOWN) if entry else terms.UNKNOWN
    if known == terms.UNKNOWN:
        progress.say("its terms of use are unknown, so nothing is allowed with it: read them, then give --terms")
    return known
