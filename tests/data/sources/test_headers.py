"""The headers of every source are looked at: names that a text repeats, and pixels that say whose they are."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medmim import store
from medmim.data import build
from medmim.data.audit import run as audit
from medmim.data.sources import headers
from medmim.data.sources.source import BadImage, Source
from medmim.recipe.schema import Data, Recipe
from medmim.recipe.sources import Questions
from medmim.run.workspace import workspace
from medmim.sample import Sample, Study
from tests.support.dicom_files import dicom


def film(**tags: str) -> bytes:
    return dicom(np.arange(64, dtype=np.uint16).reshape(8, 8), **tags)


def reader(files: dict[str, bytes], asked: list[str]) -> Callable[[str], bytes]:
    def read(path: str) -> bytes:
        asked.append(path)
        if path not in files:
            raise FileNotFoundError(path)
        if path == "bad.dcm":
            raise BadImage("it must not be read")
        return files[path]

    return read


def sample(paths: tuple[str, ...], question: str, options: tuple[str, ...] = ("a mass", "clear")) -> Sample:
    return Sample("comparison", "own", "ward", "test", True, ("P1",), paths, paths, question, options, options[0], (0,))


def test_names_in_questions_options_and_captions_are_told_and_other_formats_are_not_read() -> None:
    files = {
        "a.dcm": film(PatientName="QUINTERO^JANE"),
        "b": film(PatientName="Roe^Richard", BurnedInAnnotation="YES"),
        "c.DICOM": film(PatientName="OKAFOR^ADA"),
        "d.dcm": b"no DICOM file",
        "e": b"neither" * 30,
        "bad.dcm": b"",
    }
    asked: list[str] = []
    study = Study("ward", "P2", "c.DICOM", "CT", caption="The scan of Okafor shows a mass")
    samples = [
        sample(("a.dcm", "x.png"), "Which film of Quintero shows a mass?"),
        sample(("a.dcm", "b"), "Which is larger?", ("what Jane has", "neither")),
        sample(("d.dcm", "e", "gone.dcm", "bad.dcm"), "Roe?"),
    ]
    found = headers.looked_at(Source(reader(files, asked), studies=[study], samples=samples))
    assert sorted(found.headers) == ["a.dcm", "b", "c.DICOM"]
    assert sorted((row.file, row.key) for row in found.flagged) == [
        ("a.dcm", "answer"),
        ("a.dcm", "options"),
        ("a.dcm", "question"),
        ("b", "BurnedInAnnotation"),
        ("c.DICOM", "caption"),
    ]
    assert "x.png" not in asked and len(asked) == len(set(asked))


def test_what_a_module_has_read_is_not_read_again_and_frames_share_their_file() -> None:
    asked: list[str] = []
    files = {"a.dcm": film(PatientName="QUINTERO^JANE"), "cine.dcm": film(BurnedInAnnotation="YES")}
    frames = tuple(f"cine.dcm#frame={number}" for number in range(3))
    source = Source(
        lambda path: pytest.fail("read whole"), samples=[sample(("a.dcm", *frames), "Quintero?")], headers=["a.dcm"],
        head=reader(files, asked),
    )  # fmt: skip
    found = headers.looked_at(source)
    assert asked == ["cine.dcm"] and found.headers == ["a.dcm", *frames]
    assert [row.file for row in found.flagged] == list(frames)


def test_an_audit_refuses_the_header_of_a_question_of_one_s_own(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.dcm").write_bytes(film(PatientName="QUINTERO^JANE"))
    (raw / "b.dcm").write_bytes(film(BurnedInAnnotation="YES", PatientID="other"))
    rows = [
        {"question": "What has Quintero?", "images": ["a.dcm"], "answer": "a mass"},
        {"question": "What is it?", "images": ["b.dcm"], "answer": "a mass"},
    ]
    (raw / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = Questions(name="questions", root=str(raw), file="mine.jsonl")
    ws = workspace(tmp_path / "home")
    made = build.run(Recipe(name="own", data=Data(sources=(own,))), ws)
    found, _ = audit.audit_artifact(ws, made.uri)
    counted = {check["name"]: check["value"] for check in audit.read(found)["checks"]}
    assert (counted["identifiers/dicom-name"], counted["identifiers/dicom-burned-in"]) == (1, 1)
    assert b"uintero" not in store.read_file(found, audit.ROWS)
