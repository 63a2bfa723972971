"""Seeded random generators, one for each named decision, so that no draw depends on those before it."""

import hashlib
import random

import numpy as np


def _number(parts: tuple[object, ...]) -> int:
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:16])


def stream(*parts: object) -> random.Random:
    """A generator for choices and shuffles; `parts` name what is decided: seed, source, patient, ..."""
    return random.Random(_number(parts))  # noqa: S311  for reproducibility, not for secrets


def pixels(*parts: object) -> np.random.Generator:
    """A NumPy generator for the image that `parts` name."""
    return np.random.default_rng(_number(parts))


def fraction(*parts: object) -> float:
    """A fixed number in [0, 1) for what `parts` name."""
    return _number(parts) / 2**128
