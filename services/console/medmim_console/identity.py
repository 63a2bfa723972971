"""Who asks: a person with a token, or whom an ingress of ours names; their session, and that a form is of this site.

Reading asks for neither. A token becomes a signed cookie with the token's digest, so that a token which is taken out of
the file ends its sessions. A form carries a value that only a page of the same session can know (CSRF).
"""

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.datastructures import Headers

from medmim.errors import UserError
from medmim.network import Network, is_within
from medmim.run.person import is_person

COOKIE = "medmim_session"
HOURS = 12  # of a session
_BY_INGRESS = "by the ingress"  # in place of a session's nonce: who asks is proven anew with each request
_SHORTEST = 16  # characters of a token
_LINE = re.compile(r"(?P<name>\S.*?)\s+(?P<token>\S+)")
_log = logging.getLogger("medmim.console")


@dataclass(frozen=True)
class Session:
    """Who asks.

    Attributes:
        person: Their name; empty for a reader.
        csrf: What each form of theirs must carry; empty for a reader.
        why: For a reader who shows a proof that is none: what is wrong with it.
    """

    person: str = ""
    csrf: str = ""
    why: str = ""


@dataclass(frozen=True)
class Access:
    """Who may promote.

    Attributes:
        tokens: File with a line `NAME TOKEN` for each person; read at each request. Empty: none.
        own: A person of this machine and their token, made at the start.
        header: In which an ingress hands on who the user is; empty where there is none.
        proxies: Networks of that ingress; from elsewhere the header proves nothing.
        promoters: Names from the header that may promote.
    """

    tokens: Path | None = None
    own: tuple[str, str] | None = None
    header: str = ""
    proxies: tuple[Network, ...] = ()
    promoters: frozenset[str] = frozenset()
    _key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    _ended: set[str] = field(default_factory=set, repr=False)  # nonces of sessions, which only a token begins

    @property
    def has_login(self) -> bool:
        """Whether anybody can log in by a token."""
        return self.tokens is not None or self.own is not None

    def log_in(self, token: str) -> str:
        """The cookie of a new session.

        Args:
            token: What a person typed.

        Raises:
            UserError: It is nobody's.
        """
        if not self._name(_digest(token.strip())):
            raise UserError("this token is nobody's (any more)", fix="ask who runs this console for a token of yours")
        return self._signed({"token": _digest(token.strip()), "nonce": secrets.token_urlsafe(16)})

    def log_out(self, cookie: str) -> None:
        """End a session, whoever has kept its cookie."""
        if given := self._read(cookie):
            self._ended.add(given["nonce"])

    def session(self, headers: Headers, cookies: Mapping[str, str], peer: str) -> Session:
        """Who asks: by their own token, else by what the ingress says.

        Args:
            headers: Of the request.
            cookies: Of the request.
            peer: The address that it comes from.
        """
        given = self._read(cookies.get(COOKIE, ""))
        if given and (person := self._name(given["token"])):
            return Session(person, self._csrf(person, given["nonce"]))
        named = headers.getlist(self.header) if self.header else []
        if named:
            return self._named(named, peer)
        if given:
            return Session(why="the token of this session is nobody's any more")
        return Session(why="the session has ended" if COOKIE in cookies else "")

    def is_proxy(self, peer: str) -> bool:
        """Whether an address is the ingress'."""
        return is_within(peer, self.proxies)

    def _named(self, values: Sequence[str], peer: str) -> Session:
        if not self.is_proxy(peer):
            _log.warning("%s sends %s and is not the ingress", peer, self.header)
            return Session(why=f"the header {self.header} is believed from the ingress alone")
        if len(values) > 1:  # one of them is the client's
            _log.warning("the ingress hands on %s of a client beside its own", self.header)
            return Session(why=f"the ingress says twice who asks: it must drop a client's {self.header}")
        named = values[0].encode("latin-1").decode("utf-8", "replace").strip()
        if named not in self.promoters or not is_person(named):
            return Session(why=f"{named[:100]} may read here, and not promote")
        return Session(named, self._csrf(named, _BY_INGRESS))

    def _name(self, digest: str) -> str:
        known = {_digest(token): name for name, token in self._people()}
        return next((name for one, name in known.items() if hmac.compare_digest(one, digest)), "")

    def _people(self) -> Iterable[tuple[str, str]]:
        if self.own:
            yield self.own
        if self.tokens:
            try:
                yield from read_tokens(self.tokens).items()
            except UserError as error:  # gone, or emptied to keep everybody out
                _log.warning("%s: nobody may log in", error.fact)

    def _csrf(self, person: str, nonce: str) -> str:
        return hmac.new(self._key.encode(), f"{person}\0{nonce}".encode(), hashlib.sha256).hexdigest()

    def _signed(self, content: Mapping[str, str]) -> str:
        return URLSafeTimedSerializer(self._key, "session").dumps(dict(content))

    def _read(self, cookie: str) -> dict[str, str]:
        try:
            found: dict[str, str] = URLSafeTimedSerializer(self._key, "session").loads(cookie, max_age=HOURS * 3600)
        except BadSignature:
            return {}
        return {} if found["nonce"] in self._ended else found


def is_of_this_site(headers: Mapping[str, str]) -> bool:
    """Whether a form was sent by a page of this site, as far as the browser says."""
    origin = headers.get("origin", "")
    return not origin or urlsplit(origin).netloc == headers.get("host", "")


def is_of_session(session: Session, form_token: str, headers: Mapping[str, str]) -> bool:
    """Whether a form was sent by a page of this site that the person who sends it has opened."""
    known = bool(session.csrf) and hmac.compare_digest(session.csrf.encode(), form_token.encode())
    return known and is_of_this_site(headers)


def read_tokens(path: Path) -> dict[str, str]:
    """Name -> token of a file of lines `NAME TOKEN`; empty ones and comments (`#`) are left out.

    Raises:
        UserError: It cannot be read, holds none, or a line that is none.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", fix="give a text file of lines `NAME TOKEN`") from None
    found: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None or not is_person(match["name"]):
            problems.append(f"line {number} is not `NAME TOKEN` of a person")
        elif len(match["token"]) < _SHORTEST:
            problems.append(f"line {number}: a token has {_SHORTEST} characters at least")
        elif match["name"] in found or match["token"] in found.values():
            problems.append(f"line {number}: this name or token is there already")
        else:
            found[match["name"]] = match["token"]
    if problems or not found:
        make = "a token: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        raise UserError(f"{path} says of nobody who they are", fix=make, problems=problems)
    return found


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
