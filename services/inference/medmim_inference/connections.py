"""Connections: as many as the machine has files for, and none that is held open without a request."""

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD = 10.0  # s that the head of a request may take; its body has `Limits.upload`


class Patient(H11Protocol):
    """Closes a connection on which no whole head of a request has come in time; uvicorn waits for ever."""

    _closing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As asyncio calls it."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it."""
        super().data_received(data)
        if self._is_waiting():
            self._wait_for_head()
        elif self._closing is not None:
            self._closing.cancel()
            self._closing = None

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio calls it."""
        if self._closing is not None:
            self._closing.cancel()
        super().connection_lost(exc)

    def _is_waiting(self) -> bool:
        cycle: Any = self.cycle
        return cycle is None or cycle.response_complete

    def _wait_for_head(self) -> None:
        if self._closing is None:
            self._closing = self.loop.call_later(HEAD, self._close)

    def _close(self) -> None:
        self._closing = None
        if self._is_waiting():
            self.transport.close()


def allow_many() -> None:
    """Raise the limit of open files of this process as far as it may go: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
