"""Where a server listens, and who speaks to it: what servers of ours decide before they believe anybody."""

import ipaddress
import socket
from collections.abc import Iterable, Sequence

from medmim.errors import UserError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address, which does not listen yet: one that is taken is told before anything is loaded.

    Args:
        host: Name or address of this machine.
        port: 0 takes a free one.

    Raises:
        UserError: The address cannot be used.
    """
    try:
        # The protocol must stand in the socket: asyncio sends at once (TCP_NODELAY) only where it does, and else the
        # end of each answer waits 40 ms for the client's word on its begin.
        kind, form, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(kind, form, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(where)
    except OSError as error:
        raise UserError(f"{host}:{port} cannot be used: {error.strerror or error}", fix="give another --port") from None
    return found


def address(of: socket.socket) -> str:
    """`http://HOST:PORT` of a bound socket."""
    host, port = of.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a name or an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def networks(written: Sequence[str]) -> tuple[Network, ...]:
    """The networks of an ingress, from the options `--proxy`.

    Raises:
        UserError: Some are none; all are named.
    """
    found, problems = [], []
    for one in written:
        try:
            found.append(ipaddress.ip_network(one))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise UserError("--proxy names no network", fix="give one such as 10.0.0.0/8", problems=problems)
    return tuple(found)


def is_within(peer: str, known: Iterable[Network]) -> bool:
    """Whether an address is in one of these networks; what is no address is in none."""
    try:
        found = ipaddress.ip_address(peer)
    except ValueError:
        return False
    found = getattr(found, "ipv4_mapped", None) or found  # where the server listens on ::
    return any(found in network for network in known)
