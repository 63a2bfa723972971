"""A real MLflow, a recipe, and small artifacts to register, decide on and keep."""

from tests.support.evidence import pictures, scored  # noqa: F401
from tests.support.registry import bench, place, publish, recipe, ws  # noqa: F401
