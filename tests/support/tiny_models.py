"""Fixtures: tiny models of both families, built once per session."""

from collections.abc import Iterator

import pytest
import torch

from medmim.lvlm import llava, saving
from medmim.lvlm.llava import Lvlm
from medmim.lvlm.llava_med import LLAVA_MED
from medmim.lvlm.mantis import MANTIS
from medmim.tiny import architecture

CORPUS = [
    "Which image shows the larger opacity?\nA: image 1\nB: image 2\nC: same size",
    "B: image 2",
    "What does image 1 show?",
    "radiography: large opacity, left side.",
]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return CORPUS


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Family name -> folder of a saved tiny model."""
    root = tmp_path_factory.mktemp("tiny")
    llava.quiet_transformers()
    for family in (MANTIS, LLAVA_MED):
        tokenizer = architecture.train_tokenizer(CORPUS, family)
        model = architecture.build(family, tokenizer, seed=0)
        saving.save(Lvlm(model, tokenizer, architecture.image_processor(family), family, root), root / family.name)
    return {family.name: root / family.name for family in (MANTIS, LLAVA_MED)}


@pytest.fixture(scope="session", params=["mantis", "llava-med"])
def lvlm(request, folders) -> Lvlm:
    return llava.load(folders[request.param], device="cpu")
