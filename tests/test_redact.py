"""No password, key or control character reaches a screen or a record, however an address was written."""

import string
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medmim import redact
from medmim.errors import UserError
from medmim.recipe.loading import validate
from medmim.redact import escaped, hidden, shown
from medmim.run.workspace import workspace

# Not a part of any address or message below, so that finding it means a leak.
WORD = st.text("XQZJ", min_size=6, max_size=9)
ODD = st.text(string.punctuation + string.digits + " \tüß\u200b", max_size=3)
PASSWORDS = st.tuples(ODD, WORD, ODD, WORD, ODD).map("".join)
IN_USER = [
    "postgresql://me:{}@127.0.0.1:9/db", "postgres://me:{}@h/db", "postgresql+psycopg://me:{}@[::1]:5/db?sslmode=require",
    "mysql+pymysql://me:{}@h/db?charset=utf8", "http://me:{}@127.0.0.1:9", "https://me:{}@h/mlflow/", "//me:{}@h/db",
    "http:///me:{}@h", "postgresql:/me:{}@h/db", "me:{}@proxy:3128", "s3://me:{}@bucket/prefix", "sqlite://me:{}@h/db",
    "socks5://me:{}@h:1080", "http://:{}@h", "postgresql://me:{}@h1,h2/db",
]  # fmt: skip
IN_QUERY = [
    "postgresql://h:9/db?user=me&password={}", "postgresql://h/db?password={}&user=me", "mysql://h/db?passwd={}",
    "postgresql://h/db?user=me&sslpassword={}&sslmode=require", "http://h/x?token={}", "https://h/?access_key={}",
    "http://h/?X-Amz-Signature={}&x=1", "https://h/?api-version=1&API_KEY={}", "http://h/?pass%77ord={}",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3D1%3BUID%3Dme%3BPWD%3D{}",
]  # fmt: skip


def leaks(text: str, password: str) -> bool:
    return any(part in text for part in [*"".join(c if c in "XQZJ" else " " for c in password).split(), password])


@given(st.sampled_from(IN_USER), PASSWORDS, st.booleans())
@example("me:{}@proxy:3128", "/XQZJXQ:ZZJQXX", False)
def test_an_address_is_shown_without_its_user_whatever_the_password_holds(
    address: str, password: str, quoted: bool
) -> None:
    uri = address.format(quote(password, safe="") if quoted else password)
    assert not leaks(shown(uri), password) and "me:" not in shown(uri)
    for text in (f"no answer from {uri}", f"cannot read {uri!r}: {password!r} is no port", f'for "{password}" at h'):
        assert not leaks(hidden(text, uri), password)


@given(st.sampled_from(IN_QUERY), PASSWORDS)
def test_a_secret_in_a_query_is_masked(address: str, password: str) -> None:
    uri = address.format(quote(password, safe=""))
    assert not leaks(shown(uri), password) and shown(uri).partition("?")[0] == address.partition("?")[0]
    for text in (f"no answer from {uri}", f"cannot read {uri!r}", f"wrong value: '{password}'"):
        assert not leaks(hidden(text, uri), password)


@given(st.text(max_size=40))
def test_no_address_is_one_that_cannot_be_shown(uri: str) -> None:
    assert isinstance(shown(uri), str) and isinstance(hidden("text", uri), str)
    assert shown(shown(uri)) == shown(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////a@b/mlflow.db", "sqlite:////a:b@c/mlflow.db", "file:///a@b/x", "mlflow.db", "/a@b/c", "databricks",
        "", "http://h:5000/a?x=1", "postgresql://h/db?sslmode=require", "http://[::1]:5000", "http://[::1/x",
        "s3://bucket/a",
    ],
)  # fmt: skip
def test_an_address_without_secrets_is_shown_as_it_is(uri: str) -> None:
    assert shown(uri) == uri and hidden(f"no answer from {uri}", uri) == f"no answer from {uri}"


@given(PASSWORDS, st.sampled_from(["OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MINIO_SECRET_KEY"]))
def test_no_error_holds_a_key_of_the_environment(key: str, name: str) -> None:
    key = key.strip()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, key)
        error = UserError(f"fact '{key}'", f"reason Bearer {key}", f"fix {name}={key}", [f"row 1: {key}"])
    assert not leaks(f"{error} {error.as_dict()} {error!r}", key)


@pytest.mark.parametrize(
    "name", ["MLFLOW_TRACKING_URI", "HTTPS_PROXY", "all_proxy", "AWS_ENDPOINT_URL", "MEDMIM_STORE"]
)
@pytest.mark.parametrize("address", ["http://me:{}@h:1", "http://h?password={}"])
def test_no_error_holds_a_password_of_an_address_in_the_environment(
    name: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, address.format("XQZJQX/ZZJQX"))
    error = UserError(f"no answer from {address.format('XQZJQX/ZZJQX')}", "no port: 'XQZJQX'", "", ["XQZJQX/ZZJQX"])
    assert not leaks(f"{error} {error.as_dict()}", "XQZJQX/ZZJQX")


def test_no_error_holds_a_password_that_only_a_recipe_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_remembered", set())
    recipe = validate(
        {"name": "t", "data": {"source": "phantom"}, "platform": {"tracking": "http://me:hunter2@h:1"}}, "test"
    )
    workspace(tmp_path, recipe)
    assert "hunter2" not in str(UserError("a proxy said hunter2")) and "hunter2" not in redact.hidden("hunter2")


@pytest.mark.parametrize("key", ["none", "EMPTY", "x", ""])
def test_the_word_of_a_server_without_keys_is_no_secret(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    assert str(UserError("none of the files is x or EMPTY")) == "none of the files is x or EMPTY"


def test_a_password_that_is_a_part_of_other_words_leaves_them_whole() -> None:
    said = hidden('postgresql: no user "x", no database', "postgresql://postgres:postgres@h/db")
    assert said == 'postgresql: no user "x", no database'


@given(st.text(st.characters(codec="utf-8")))
def test_no_control_character_of_a_server_reaches_the_terminal(text: str) -> None:
    printed = str(UserError("fact", text))
    assert not any(one < " " and one not in "\n\t" or "\x7f" <= one < "\xa0" for one in printed)
    assert escaped(escaped(text)) == escaped(text)
    assert text not in printed or all(one >= " " or one in "\n\t" for one in text)


def test_what_a_terminal_would_obey_is_written_as_its_number() -> None:
    assert str(UserError("\x1b[2J\x1b]0;pwned\x07 ok\r\u009b")) == r"\x1b[2J\x1b]0;pwned\x07 ok\x0d\x9b"
    assert str(UserError("größer\t更大\nx")) == "größer\t更大\nx"
