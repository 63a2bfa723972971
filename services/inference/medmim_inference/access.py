"""Who may ask: bearer tokens of a file, or the identity that an ingress of ours has established."""

import hashlib
import hmac
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medmim.errors import UserError
from medmim.network import Network, is_within
from medmim.registry.chat import Refused

_log = logging.getLogger("medmim.inference")
_SHORTEST = 16  # characters of a token


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        tokens: File with a token a line; read at each request, so that a token that is taken out is of no use at once.
            Empty: no token is asked for.
        header: In which an ingress hands on who the user is, such as `X-Forwarded-User`; empty where there is none.
        proxies: Networks of that ingress; from elsewhere the header proves nothing.
    """

    tokens: Path | None = None
    header: str = ""
    proxies: tuple[Network, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether whoever reaches the server may ask."""
        return self.tokens is None and not self.header

    def user(self, headers: Mapping[str, str], peer: str) -> str:
        """Who asks: the user that the ingress names, `token` and the begin of its digest, or `anyone`.

        Args:
            headers: Of the request.
            peer: The address that it comes from.

        Raises:
            Refused: 401.
        """
        if self.is_open:
            return "anyone"
        if self.header and is_within(peer, self.proxies) and (name := headers.get(self.header, "").strip()):
            return name[:100]
        kind, _, token = headers.get("authorization", "").partition(" ")
        if self.tokens and kind.lower() == "bearer" and token.strip():
            given = _digest(token.strip())
            known = [_digest(one) for one in _now(self.tokens)]
            if any([hmac.compare_digest(given, one) for one in known]):
                return f"token {given.hex()[:8]}"
            raise Refused(401, "the bearer token is none of this server's (any more)")
        need = "a bearer token" if self.tokens else f"the header {self.header} of the ingress"
        raise Refused(401, f"this server asks for {need}")


def read_tokens(path: Path) -> list[str]:
    """The tokens of a file: a line each; empty ones and comments (`#`) are left out.

    Raises:
        UserError: It cannot be read, holds none, or one that is too short.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", fix="give a text file with a token a line") from None
    tokens = [line for line in lines if line and not line.startswith("#")]
    short = [str(number) for number, line in enumerate(lines, 1) if line in tokens and len(line) < _SHORTEST]
    if short or not tokens:
        fact = (
            f"{path} has tokens of under {_SHORTEST} characters in line {', '.join(short)}"
            if short
            else f"{path} has no token"
        )
        raise UserError(fact, fix="make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'")
    return tokens


def _now(path: Path) -> list[str]:
    """The tokens while the server runs: none where the file is gone or was emptied, to keep everybody out."""
    try:
        return read_tokens(path)
    except UserError as error:
        _log.warning("%s: nobody may ask", error.fact)
        return []


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
