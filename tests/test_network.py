import asyncio
import socket
from collections.abc import Iterator

import pytest

from medmim import network
from medmim.errors import UserError


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with network.bound("127.0.0.1", 0) as one:
        one.listen()
        yield one


def test_an_address_that_is_taken_is_told(taken: socket.socket) -> None:
    port = taken.getsockname()[1]

    with pytest.raises(UserError, match=f"127.0.0.1:{port} cannot be used"):
        network.bound("127.0.0.1", port)


def test_answers_are_sent_at_once(taken: socket.socket) -> None:
    """Else the second part of each waits 40 ms, until the client has acknowledged the first."""
    set_at = asyncio.Queue[int]()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = writer.get_extra_info("socket")
        set_at.put_nowait(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def asked() -> int:
        async with await asyncio.start_server(accept, sock=taken):
            _, writer = await asyncio.open_connection(*taken.getsockname())
            writer.close()
            return await asyncio.wait_for(set_at.get(), 30)

    assert asyncio.run(asked())


def test_an_address_names_a_port_also_of_ipv6(taken: socket.socket) -> None:
    assert network.address(taken) == f"http://127.0.0.1:{taken.getsockname()[1]}"
    if socket.has_ipv6:
        with network.bound("::1", 0) as one:
            assert network.address(one) == f"http://[::1]:{one.getsockname()[1]}"


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False),  # noqa: S104
     ("::", False), ("10.0.0.1", False), ("localhost.example.org", False), ("", False)],
)  # fmt: skip
def test_only_loopback_is_this_machine_alone(host: str, alone: bool) -> None:
    assert network.is_loopback(host) is alone


def test_all_that_are_no_networks_are_told_at_once() -> None:
    with pytest.raises(UserError) as told:
        network.networks(["10.0.0.0/8", "ten", "10.0.0.300"])

    assert len(told.value.problems) == 2


@pytest.mark.parametrize(
    ("peer", "inside"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("fd00::7", True), ("11.0.0.1", False), ("::ffff:11.0.0.1", False),
     ("testclient", False), ("", False)],
)  # fmt: skip
def test_a_peer_is_within_a_network_also_where_the_server_listens_on_ipv6(peer: str, inside: bool) -> None:
    assert network.is_within(peer, network.networks(["10.0.0.0/8", "fd00::/8"])) is inside
