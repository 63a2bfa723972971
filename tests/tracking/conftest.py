"""A real MLflow on SQLite, a recipe, and small artifacts."""

from tests.support.registry import publish, recipe, ws  # noqa: F401
