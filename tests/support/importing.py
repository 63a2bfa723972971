"""For tests of the import: its options for each original layout, and a check that nothing is published."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medmim.errors import UserError
from medmim.lvlm.importing.run import Options, import_base
from medmim.run.workspace import Workspace
from tests.support import originals
from tests.support.originals import LLAVA_MED

SIGLIP = originals.MANTIS
BOTH = pytest.mark.parametrize("which", [SIGLIP, LLAVA_MED])
IMAGES = [
    Image.fromarray(np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8))
    for i, shape in enumerate([(20, 50, 3), (40, 16, 3)])
]
TOWER = Options(tower="checkpoint")


def options(which: str) -> Options:
    return TOWER if which == LLAVA_MED else Options()


def edit(file: Path, change: dict[str, Any]) -> None:
    """Change keys of a file in JSON."""
    file.write_text(json.dumps((json.loads(file.read_text()) if file.is_file() else {}) | change))


def refused(folder: Path | str, ws: Workspace, chosen: Options = TOWER) -> UserError:
    with pytest.raises(UserError) as caught:
        import_base(str(folder), ws, chosen)
    assert caught.value.fix
    kept = Path(ws.store) / "model"
    assert not kept.exists() or not list(kept.iterdir())
    return caught.value
