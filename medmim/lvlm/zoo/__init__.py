"""The models' declarations. `load` is for versions that medmim 0.1.0 registered: their pyfunc imports it from here."""

from pathlib import Path
from typing import Any


def load(path: Path) -> Any:
    """The model in a folder; see `medmim.lvlm.llava.load`."""
    from medmim.lvlm import llava

    return llava.load(path)
