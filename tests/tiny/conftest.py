"""Tiny models of both families."""

from tests.support.tiny_models import _one_thread, corpus, folders, lvlm  # noqa: F401
