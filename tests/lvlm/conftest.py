"""Tiny models of both families, and a server."""

from tests.support.openai_server import no_waiting, server  # noqa: F401
from tests.support.tiny_models import _one_thread, corpus, folders, lvlm  # noqa: F401
