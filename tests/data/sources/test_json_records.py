"""Records of a JSON file one by one: the values of `json.loads`, and errors that name the record."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.data.sources import json_records
from medmim.data.sources.json_records import records
from medmim.errors import UserError

WANTED = "a list of captions in JSON"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(params=[1, 7, 1 << 20])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "_BLOCK", request.param)


@settings(max_examples=60)
@given(values=st.lists(JSON, max_size=6), indent=st.sampled_from([None, 1]), block=st.integers(1, 40))
def test_a_list_gives_its_elements_whatever_the_size_of_a_block(
    values: list[Any], indent: int | None, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("list") / "list.json"
    path.write_text(json.dumps(values, indent=indent), encoding="utf-8")
    before = json_records._BLOCK
    json_records._BLOCK = block
    try:
        assert list(records(path, WANTED)) == values
    finally:
        json_records._BLOCK = before


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize(
    "text", ['{"a": 1}\n{"b": [2, 3]}\n', '\ufeff {"a": 1}\r\n\r\n{"b": [2, 3]}', '[{"a": 1}, {"b": [2, 3]}]\n']
)
def test_lines_and_lists_read_the_same(tmp_path: Path, text: str) -> None:
    (tmp_path / "f.json").write_text(text, encoding="utf-8")
    assert list(records(tmp_path / "f.json", WANTED)) == [{"a": 1}, {"b": [2, 3]}]


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize(
    ("text", "number", "reason"),
    [
        ('[{"a": 1}, {"b": "x', 2, "cut off"),
        ('[{"a": 1}, {"b": "x"}', 3, "cut off"),
        ('[{"a": 1}', 2, "cut off"),
        ("[", 1, "cut off"),
        ('[{"a": 1} {"b": 2}]', 2, "comma"),
        ('[{"a": 1},]', 2, "nothing follows"),
        ('[{"a": 1}] x', 2, "more follows"),
        ('{"a": 1}\n{"b": }\n', 2, "Expecting value"),
        ("[" * 100_000, 1, "deeply"),
        ("[" + "9" * 5000 + "]", 1, "digits"),
    ],
)
def test_a_broken_file_is_refused_at_its_record(tmp_path: Path, text: str, number: int, reason: str) -> None:
    (tmp_path / "f.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"f.json is not valid JSON in record {number}") as caught:
        list(records(tmp_path / "f.json", WANTED))
    assert reason in str(caught.value)


def test_a_record_without_end_fills_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "MAX_RECORD", 1 << 20)
    (tmp_path / "f.json").write_text('["' + "x" * (8 << 20), encoding="utf-8")
    with pytest.raises(UserError, match="record 1") as caught:
        list(records(tmp_path / "f.json", WANTED))
    assert "in the first 1,048,576 characters" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 128785989\n", "a Git LFS pointer"),
        (b"PK\x03\x04" + b"\0" * 60, "a zip archive"),
        ('[{"a": "é"}]'.encode("latin-1"), "WINDOWS-1252"),
        (b"", "empty"),
    ],
)
def test_what_is_no_json_is_named_with_what_helps(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "f.json").write_bytes(data)
    with pytest.raises(UserError, match=words):
        list(records(tmp_path / "f.json", WANTED))


@settings(max_examples=80)
@given(text=st.text(alphabet='[]{}",:0123456789.eE+-truefalsn \\u\n', max_size=30), block=st.integers(1, 9))
def test_any_text_is_read_or_refused(text: str, block: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "any.json"
    path.write_text(text, encoding="utf-8")
    before = json_records._BLOCK
    json_records._BLOCK = block
    try:
        found = list(records(path, WANTED))
    except UserError as error:
        assert "any.json" in str(error)
    else:
        try:
            whole = json.loads(text)
        except json.JSONDecodeError:
            return  # several values one after another
        assert found == (whole if isinstance(whole, list) else [whole])
    finally:
        json_records._BLOCK = before
