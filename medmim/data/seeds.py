"""Random streams named by what they decide, so that no draw depends on which others came before it."""

import hashlib
import random

import numpy as np


def _number(parts: tuple[object, ...]) -> int:
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:16])


def stream(*parts: object) -> random.Random:
    """Choices and shuffles for the thing that `parts` name: seed, source, patient, ..."""
    return random.Random(_number(parts))  # noqa: S311  reproducible, nothing secret


def pixels(*parts: object) -> np.random.Generator:
    """Numbers for the image that `parts` name."""
    return np.random.default_rng(_number(parts))


def fraction(*parts: object) -> float:
    """A fixed number in [0, 1) for the thing that `parts` name."""
    return _number(parts) / 2**128
