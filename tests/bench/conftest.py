"""The benchmark that the tests of this folder share."""

from tests.support.bench import world  # noqa: F401
