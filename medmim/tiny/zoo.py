"""Stand-ins of the zoo's models: tiny, with random weights, for a machine that has neither the weights nor a GPU."""

import tempfile
from dataclasses import replace
from pathlib import Path

from medmim import terms
from medmim.lvlm import checkpoint, llava, saving
from medmim.lvlm.zoo import entry as zoo
from medmim.lvlm.zoo import stored
from medmim.progress import say
from medmim.run.workspace import Workspace
from medmim.tiny import architecture, zoo_classes

TERMS = terms.unrestricted(f"{stored.NOISE} that medmim drew, so its answers are noise")


def publish_all(ws: Workspace) -> dict[str, str]:
    """Publish a stand-in of every model of the zoo; what was made before is kept.

    Args:
        ws: Its store receives them.

    Returns:
        Name, `tiny-` and that of the zoo's model -> URI.

    Raises:
        UserError: The store refuses.
    """
    made = {}
    known = {str(one.counts["zoo"]): one.uri for one in stored.imported(ws)}
    for seed, entry in enumerate(zoo.entries()):
        name = stored.STAND_IN + entry.name
        if name not in known:
            say(f"{name}: {entry.classes[0]}, random weights")
            ws.home.joinpath("work").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=ws.home / "work") as folder:
                _build(entry, Path(folder) / "model", seed)
                work = Path(folder) / "publish"
                made_from = {"source": f"{entry.name}, tiny and random"}
                known[name] = stored.publish(Path(folder) / "model", name, ws, work, TERMS, made_from).uri
        made[name] = known[name]
    return made


def _build(entry: zoo.Entry, folder: Path, seed: int) -> None:
    if entry.format is None:
        zoo_classes.build(entry.classes[0], folder, seed)
        return
    shipped = llava.load(checkpoint.resolve(stored.STAND_IN + entry.format), "cpu")
    model = architecture.build(shipped.family, shipped.tokenizer, seed)
    saving.save(replace(shipped, model=model, path=Path()), folder)
