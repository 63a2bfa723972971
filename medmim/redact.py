"""What may be shown of an address and of a text that others wrote: no passwords, keys or control characters."""

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from urllib.parse import quote, unquote, unquote_plus

_MASK = "***"
_HEAD = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:/+)?")
_FILE = re.compile(r"file:(?!//[^/])|sqlite(?:\+\w+)?:///|[^:@]*(?:@|$)", re.IGNORECASE)  # a path: `@` is a letter
_SECRET_KEY = r"pass|pwd|secret|token|credential|signature|api_?key|access_?key|auth"  # noqa: S105
_KEY = re.compile(_SECRET_KEY, re.IGNORECASE)
_PAIR = re.compile(r"([?&;])([^=&;?]*)=([^&]*)")
_QUERY = re.compile(rf"([?&][\w-]*(?:{_SECRET_KEY})[\w-]*=)[^&\s'\")>]+", re.IGNORECASE)  # in a text
_BREAKS = re.compile(r"[/?#@:\[\]&;=%\\\s]")  # where a parser may take a part of a password for something else
_ADDRESSES = ("MLFLOW_TRACKING_URI", "MEDMIM_STORE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "MINIO_ENDPOINT")
_PROXY = re.compile(r"\w+_proxy", re.IGNORECASE)
_KEYS = (
    "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MINIO_SECRET_KEY", "MINIO_ROOT_PASSWORD",
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN",
)  # fmt: skip
_remembered: set[str] = set()
_SHORTEST = 3  # characters of a secret that can be told from other text
_SHORTEST_KEY = 8  # likewise of a variable, which holds a word such as `none` or `EMPTY` where a server needs no key


def shown(uri: str) -> str:
    """An address without user and password, and with the secret values of its query as `***`; raises nothing.

    A password that should have been quoted may hold any character: the user ends at the last `@`.
    """
    if _FILE.match(uri):
        return uri
    head, user, at, rest = _split(uri)
    if at and "?" in user:  # the `@` may lie in a password within the query
        return head + _MASK
    return head + _PAIR.sub(_masked, rest)


def remember(address: str) -> None:
    """Have `hidden` hide the secrets of an address that is in no variable of the environment, such as a recipe's."""
    if shown(address) != address:
        _remembered.add(address)


def hidden(text: str, *addresses: str) -> str:
    """A text of others without the secrets of these addresses, of the environment, and of the addresses within it."""
    addresses = (*addresses, *_remembered)
    found = dict.fromkeys(secret for uri in addresses for secret in _secrets(uri))
    found |= dict.fromkeys(_of_environment(os.environ))
    for uri in addresses:
        if shown(uri) != uri:
            text = text.replace(uri, shown(uri))
    for secret in sorted(found, key=len, reverse=True):
        if secret in text:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _MASK, text)
    return _QUERY.sub(rf"\1{_MASK}", text)


def escaped(text: str) -> str:
    r"""A text whose control characters, which a terminal obeys, are written as `\x1b`; line breaks and tabs stay."""
    if text.isprintable():
        return text
    return "".join(
        f"\\x{ord(one):02x}" if unicodedata.category(one) == "Cc" and one not in "\n\t" else one for one in text
    )


def shape(text: str) -> str:
    """A text with every letter as `x` or `X` and every digit as `9`: what it looks like, and not what it says."""
    return "".join(
        "9" if one.isdigit() else ("X" if one.isupper() else "x") if one.isalpha() else one for one in escaped(text)
    )


def _split(uri: str) -> tuple[str, str, str, str]:
    """Scheme with its slashes, user with password, `@`, the rest; the middle two are empty where nobody is named.

    What stands before a single slash may be a user whose password begins with it.
    """
    found = _HEAD.match(uri)
    head = found[0] if found and (found[0].endswith("//") or "@" not in uri) else ""
    return head, *uri[len(head) :].rpartition("@")


def _masked(pair: "re.Match[str]") -> str:
    value = _MASK if _is_secret(pair[2], pair[3]) else pair[3]
    return f"{pair[1]}{pair[2]}={value}"


def _is_secret(key: str, value: str) -> bool:
    within = re.search(rf"(?:{_SECRET_KEY})\w*=", unquote(value), re.IGNORECASE)  # ODBC's whole connection string
    return within is not None or _KEY.search(unquote(key)) is not None


def _secrets(uri: str) -> Iterator[str]:
    """The secrets of an address, in the ways in which a message may write them."""
    if _FILE.match(uri):
        return
    given = [_split(uri)[1].partition(":")[2]]
    given += [pair[3] for pair in _PAIR.finditer(uri) if _is_secret(pair[2], pair[3])]
    for secret in given:
        plain = unquote(secret)
        ways = [secret, plain, unquote_plus(secret), quote(plain, safe=""), repr(plain)[1:-1]]
        yield from (way for way in ways if len(way) >= _SHORTEST)
        yield from (part for one in ways for part in _BREAKS.split(one) if len(part) >= _SHORTEST)


def _of_environment(environment: Mapping[str, str]) -> Iterator[str]:
    for name in _KEYS:
        value = environment.get(name, "").strip()
        if len(value) >= _SHORTEST_KEY:
            yield value
    for name, value in environment.items():
        if (name in _ADDRESSES or _PROXY.fullmatch(name)) and ("@" in value or "?" in value):
            yield from _secrets(value)
