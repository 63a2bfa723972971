"""Reading MedFrameQA: ready questions, images inside the Parquet file or beside it, only the needed group read."""

import contextlib
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.data import build
from medmim.data.sources import medframeqa
from medmim.data.sources.medframeqa import load
from medmim.data.sources.source import BadImage, Source
from medmim.errors import UserError
from medmim.recipe.schema import Data
from medmim.sample import Sample
from tests.support.raw_sources import entry, write_image

FILE = "data/test-00000-of-00001.parquet"
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(("question_id", "system", "organ", "keyword", "modality", "video_id", "question"), pa.string()),
    "options": pa.list_(pa.string()),
    "correct_answer": pa.string(),
    **{f"image_{n}": IMAGE for n in range(1, 6)},
    "image_url": pa.list_(pa.string()),
    "reasoning_chain": pa.string(),
}


def row(number: int, images: int, **keys: Any) -> dict[str, Any]:
    return {
        "question_id": f"q{number}", "system": "nervous", "organ": "brain", "keyword": "glioma", "modality": "MRI",
        "video_id": f"v{number // 2}", "question": f"Which frame of {number} shows the mass?",
        "options": ["first", "second", "third", "fourth"], "correct_answer": "B",
        **{f"image_{n}": {"bytes": b"%d-%d" % (number, n), "path": None} for n in range(1, images + 1)},
        "image_url": [], "reasoning_chain": "because", **keys,
    }  # fmt: skip


ROWS = [
    row(0, 2), row(1, 5, options=["a", "b", "c", "d", "e", "f"], correct_answer="F"), row(2, 3, correct_answer=" a "),
    row(3, 2, options=["A. yes", "B. no"], correct_answer="B."), row(4, 1),
]  # fmt: skip


def write(root: Path, rows: list[dict[str, Any]] = ROWS, name: str = FILE, group: int = 2, **types: Any) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = {key: kind for key, kind in (TYPES | types).items() if kind is not None}
    columns = {key: pa.array([r.get(key) for r in rows], kind) for key, kind in wanted.items()}
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return root


def read(root: Path) -> Source:
    return load(entry("medframeqa", root))


def test_a_row_is_a_ready_question_on_its_frames(tmp_path: Path) -> None:
    source = read(write(tmp_path))
    paths = tuple(f"{FILE}/1/image_{n}" for n in range(1, 6))
    assert (source.samples or [])[1] == Sample(
        ability="reasoning", family="frames", source="medframeqa", split="test", held_out=True, patients=("v0",),
        images=paths, paths=paths, question="Which frame of 1 shows the mass?",
        options=("a", "b", "c", "d", "e", "f"), answer="f", gold=(5,),
    )  # fmt: skip
    assert [(s.patients, len(s.paths), s.answer, s.gold) for s in source.samples or []] == [
        (("v0",), 2, "second", (1,)), (("v0",), 5, "f", (5,)), (("v1",), 3, "first", (0,)), (("v1",), 2, "no", (1,)),
    ]  # fmt: skip
    assert (source.studies, source.bad, source.missing) == (None, [], [])
    assert source.facts == {
        "rows": 5, "videos": 2, "by_images": {"2": 2, "3": 1, "5": 1}, "by_modality": {"MRI": 4}, "missing_images": 0,
        "skipped": {"a question on one frame": 1},
    }  # fmt: skip


def test_each_image_has_its_own_bytes_in_another_process_too(tmp_path: Path) -> None:
    source = read(write(tmp_path))
    other = pickle.loads(pickle.dumps(source.read))
    for sample in source.samples or []:
        for path in sample.paths:
            _, number, column = path.rsplit("/", 2)
            assert other(path) == f"{number}-{column[-1]}".encode()


def test_an_image_is_known_again_until_its_table_changes(tmp_path: Path) -> None:
    source = read(write(tmp_path))
    paths = [path for sample in source.samples or [] for path in sample.paths]
    before = {path: source.identity(path) for path in paths}
    assert all(before.values()) and len(set(before.values())) == len(paths)
    assert {path: read(tmp_path).identity(path) for path in paths} == before
    write(tmp_path, [row(9, 2), *ROWS])
    assert not {read(tmp_path).identity(path) for path in paths} & set(before.values())
    assert source.identity("images/absent.jpg") == ""


def test_an_image_is_read_with_its_group_and_column_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = read(write(tmp_path))
    asked: list[tuple[int, list[str]]] = []
    whole = pq.ParquetFile.read_row_group

    def noted(self: Any, group: int, columns: list[str]) -> Any:
        asked.append((group, columns))
        return whole(self, group, columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noted)
    assert source.read(f"{FILE}/2/image_3") == b"2-3"
    assert source.read(f"{FILE}/3/image_2") == b"3-2"
    assert source.read(f"{FILE}/2/image_2") == b"2-2"
    assert asked == [(1, ["image_3"]), (1, ["image_2"])]  # the last one is in memory still


@pytest.mark.parametrize("path", [f"{FILE}/9/image_1", f"{FILE}/4/image_2", "data/other.parquet.png", "images/x.jpg"])
def test_an_image_that_is_not_there_is_missing(tmp_path: Path, path: str) -> None:
    with pytest.raises(FileNotFoundError):
        read(write(tmp_path)).read(path)


def test_images_may_be_files_beside_the_table(tmp_path: Path) -> None:
    rows = [row(0, 2, image_1={"bytes": None, "path": "v0/1.jpg"}, image_2={"bytes": None, "path": "v0/2.jpg"})]
    write(tmp_path, rows)
    write_image(tmp_path / "images/v0/1.jpg")
    source = read(tmp_path)
    assert [sample.paths for sample in source.samples or []] == [("images/v0/1.jpg", "v0/2.jpg")]
    assert source.missing == ["v0/2.jpg"]
    assert source.read("images/v0/1.jpg") == (tmp_path / "images/v0/1.jpg").read_bytes()
    bare = write(tmp_path / "bare", [row(0, 0, image_1="v0/1.jpg", image_2="../x.jpg")],
                 **dict.fromkeys(("image_1", "image_2"), pa.string()))  # fmt: skip
    found = read(bare)
    assert [sample.paths for sample in found.samples or []] == [("v0/1.jpg", "../x.jpg")]
    with pytest.raises(BadImage, match="leaves"):
        found.read("../x.jpg")


def test_only_the_test_split_is_read(tmp_path: Path) -> None:
    write(write(tmp_path), [row(9, 2)], "data/train-00000-of-00001.parquet")
    source = read(tmp_path)
    assert source.facts["skipped"]["a file of another split"] == 1
    assert {sample.patients for sample in source.samples or []} == {("v0",), ("v1",)}
    (tmp_path / FILE).unlink()
    with pytest.raises(UserError, match=r"there is no test\*.parquet") as caught:
        read(tmp_path)
    assert "train-00000" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"video_id": None}, "video_id", "is empty"),
        ({"video_id": "nan"}, "video_id", "missing value"),
        ({"question": ""}, "question", "is empty"),
        ({"options": None}, "options", "no list of texts"),
        ({"options": ["only"]}, "options", "1 options"),
        ({"options": [str(n) for n in range(9)]}, "options", "9 options"),
        ({"options": ["x", None]}, "options", "no list of texts"),
        ({"options": ["x", " "]}, "options", "empty"),
        ({"correct_answer": "E"}, "correct_answer", "none of A to D"),
        ({"correct_answer": "second"}, "correct_answer", "none of A to D"),
        ({"image_1": None, "image_2": None}, "image_1", "no image at all"),
    ],
)
def test_a_row_that_cannot_be_used_is_quarantined(tmp_path: Path, change: dict[str, Any], key: str, words: str) -> None:
    source = read(write(tmp_path, [ROWS[1], ROWS[0] | change]))
    assert [(bad.file, bad.row, bad.key, words in bad.reason) for bad in source.bad] == [(FILE, 2, key, True)]
    assert len(source.samples or ()) == 1


def test_the_right_text_under_two_letters_is_right_under_both(tmp_path: Path) -> None:
    source = read(write(tmp_path, [row(0, 2, options=["left", "right", "left"], correct_answer="C")]))
    assert [sample.gold for sample in source.samples or []] == [(2, 0)]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "a Git LFS pointer"),
        (b"PAR1" + b"\0" * 40 + b"PAR1", "is not a sound Parquet file"),
        (b"[]", "not a Parquet file"),
    ],
)
def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    write(tmp_path)
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(UserError, match=words):
        read(tmp_path)


def test_a_missing_column_and_a_group_larger_than_memory_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="lacks columns: options") as caught:
        read(write(tmp_path, options=None))
    assert "correct_answer" in str(caught.value)
    monkeypatch.setattr(medframeqa, "_GROUP", 10)
    with pytest.raises(UserError, match="in one group of rows"):
        read(write(tmp_path))


def test_a_build_stores_the_frames(tmp_path: Path) -> None:
    def picture(number: int) -> bytes:
        return write_image(tmp_path / f"p{number}.png", "PNG").read_bytes()

    rows = [
        row(n, 0, **{f"image_{k}": {"bytes": picture(10 * n + k), "path": "x.png"} for k in (1, 2)}) for n in range(3)
    ]
    root = write(tmp_path / "raw", rows)
    data = Data(sources=({"name": "medframeqa", "root": str(root)},))  # type: ignore[arg-type]
    facts = build.make([read(root)], data, tmp_path / "out")
    assert (facts["rows"], facts["images"], facts["held_out"], facts["quarantined"]) == (3, 6, 3, {})


JSON = st.none() | st.text(max_size=8)


@settings(max_examples=60)
@given(
    change=st.dictionaries(
        st.sampled_from(["question_id", "video_id", "question", "correct_answer", "modality"]), JSON
    ),
    options=st.none() | st.lists(JSON, max_size=10),
    image=st.none() | st.fixed_dictionaries({"bytes": st.none() | st.binary(max_size=4), "path": JSON}),
)
def test_any_values_are_read_or_quarantined(
    change: dict[str, Any], options: Any, image: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = write(tmp_path_factory.mktemp("fuzz"), [ROWS[0] | change | {"options": options, "image_2": image}])
    source = read(root)
    skipped = source.facts["skipped"].get("a question on one frame", 0)
    assert len(source.samples or ()) + bool(source.bad) + skipped == 1


@settings(max_examples=60)
@given(at=st.floats(0, 1), junk=st.binary(min_size=1, max_size=8))
def test_a_damaged_file_is_read_or_refused_with_its_name(
    at: float, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = write(tmp_path_factory.mktemp("damaged"))
    whole = (root / FILE).read_bytes()
    place = int(at * (len(whole) - len(junk)))
    (root / FILE).write_bytes(whole[:place] + junk + whole[place + len(junk) :])
    try:
        source = read(root)
    except UserError as error:
        assert "test-00000-of-00001.parquet" in str(error)
        return
    for sample in source.samples or []:
        for path in sample.paths:
            with contextlib.suppress(BadImage, FileNotFoundError, UserError):
                source.read(path)
