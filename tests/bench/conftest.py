"""The benchmark world, for every test of this room."""

from tests.support.bench import world  # noqa: F401
