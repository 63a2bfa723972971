"""The shipped recipe `med-mim` on look-alikes of its sources: the paper's benchmark in miniature, from raw files."""

from pathlib import Path

import pytest

from medmim import shards
from medmim.data import build
from medmim.data.audit import run as audit
from medmim.data.lookalike.run import write
from medmim.recipe import loading
from medmim.run.workspace import workspace

HELD_IN = {
    "embed": {"which_diseased", "forecast", "which_craniocaudal", "birads"},
    "lumiere": {"which_sequence", "extent_of_resection", "tumor_course"},
    "ms-cxr-t": {"progression"},
}
HELD_OUT = {"odir", "vqa-rad", "medframeqa"}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_type_of_the_paper_comes_out_of_raw_folders_and_nothing_leaks(tmp_path: Path) -> None:
    write(tmp_path / "raw", 24, 0)
    recipe = loading.load("med-mim", [f"data.root={tmp_path / 'raw'}"])
    place = workspace(tmp_path / "home")
    made = build.run(recipe, place)
    samples = shards.read_samples(place.fetch(made.uri))
    for source, families in HELD_IN.items():
        assert {s.family for s in samples if s.source == source} == families
        assert not any(s.held_out for s in samples if s.source == source)
    assert {s.source for s in samples if s.held_out} == HELD_OUT
    assert all(s.split == "test" for s in samples if s.held_out)
    assert any(s.source == "pmc" and s.ability == "composed" for s in samples)
    audit.run(recipe, place, made.uri)  # raises where train and benchmark share a patient or a picture
