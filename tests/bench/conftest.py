"""The benchmark world, for every test of this room."""

from bench_world import world  # noqa: F401
