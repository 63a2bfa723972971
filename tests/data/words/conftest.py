from tests.support.openai_server import no_waiting, server  # noqa: F401
