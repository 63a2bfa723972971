"""Tiny random models of the zoo's classes, each built once per session."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from medmim.lvlm import llava
from medmim.lvlm.zoo import model as zoo
from medmim.lvlm.zoo.model import Model
from tests.support import zoo_models
from tests.support.tiny_models import _one_thread, folders  # noqa: F401

llava.quiet_transformers()


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Class -> folder of a saved model."""
    return lru_cache(lambda kind: zoo_models.build(kind, tmp_path_factory.mktemp("zoo") / kind))


@pytest.fixture(scope="session")
def model_of(folder_of: Callable[[str], Path]) -> Callable[[str], Model]:
    """Class -> the loaded model."""
    return lru_cache(lambda kind: zoo.load(folder_of(kind), "cpu", unproven=True))


@pytest.fixture(params=zoo_models.CLASSES)
def model(request: pytest.FixtureRequest, model_of: Callable[[str], Model]) -> Model:
    return model_of(request.param)
