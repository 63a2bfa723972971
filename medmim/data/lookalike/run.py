"""Writes folders that look like the real sources: their layouts, tables and dirty values, with drawn pictures."""

import os
from pathlib import Path

from medmim import progress
from medmim.data.lookalike import embed, llava_med, lumiere, medframeqa, ms_cxr_t, odir, vqa_rad
from medmim.data.lookalike.tables import Written
from medmim.errors import UserError, require
from medmim.run.lock import scratch

_SOURCES = {
    "embed": embed.write_source,
    "lumiere": lumiere.write_source,
    "ms-cxr-t": ms_cxr_t.write_source,
    "llava-med": llava_med.write_source,
    "odir": odir.write_source,
    "vqa-rad": vqa_rad.write_source,
    "medframeqa": medframeqa.write_source,
}


def write(folder: Path, patients: int, seed: int) -> list[Written]:
    """Write a folder of each source into a new folder, which appears when it is whole.

    Args:
        folder: Absent or empty; folders above it are made.
        patients: Of each source: patients, or articles, images or videos where no patient is known.
        seed: Equal seeds give equal bytes; a patient is the same for any number of them.

    Returns:
        What each source's folder holds.

    Raises:
        UserError: There is something in `folder`, or a library that writes a format is missing.
    """
    for module in ("pydicom", "nibabel", "openpyxl"):
        require(module, "data")
    folder = folder.absolute()
    _refuse_in_use(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch(folder.parent, ".medmim-lookalike-") as work:
        whole = work / folder.name  # not the work folder itself, which is its owner's alone
        with progress.bar("look-alikes", len(_SOURCES) * patients, "patients") as bar:
            written = [write_source(whole / name, patients, seed, bar.add) for name, write_source in _SOURCES.items()]
        _refuse_in_use(folder)
        whole.rename(folder)
    return written


def _refuse_in_use(folder: Path) -> None:
    """Refuse a path where there is something.

    Raises:
        UserError: It is a file, a link, or a folder that is not empty.
    """
    fix = "give a folder that does not exist, or an empty one"
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is no folder", "look-alikes are written into a new folder", fix)
    if folder.is_dir() and (names := sorted(os.listdir(folder))):
        raise UserError(f"{folder} is in use: it holds {names[0]}", "look-alikes are never mixed with other files", fix)
