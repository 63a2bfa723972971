# ruff: noqa: F811
"""Data sets: real artifacts, a real audit, a real MLflow; no patient is named unless the recipe says so."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medmim import shards, store, tracking
from medmim.data import erased
from medmim.data.audit import run as audit
from medmim.run.workspace import Workspace
from medmim.sample import Sample
from medmim.store import Artifact
from medmim.terms import APACHE
from tests.support.console import browser
from tests.support.registry import ws  # noqa: F401

HOSTILE = "<script>alert(1)</script> 肺?"
PATIENT, FILE, SURNAME = "p10046166", "files/p10/p10046166/s1.jpg", "Müller"


def sample(number: int, split: str, patient: str, question: str = HOSTILE) -> Sample:
    image = f"sha256:{patient}"
    options = ("yes", "no") if number % 2 else ()
    return Sample(
        "temporal" if number % 3 else "single", "change", "covid" if number % 2 else "rsna", split, False, (patient,),
        (image,), (f"files/{patient}.jpg",), f"{question} {number}", options, "yes", (0,) if options else (), (),
    )  # fmt: skip


Build = Callable[..., Artifact]


@pytest.fixture
def build(ws: Workspace, tmp_path: Path) -> Build:
    """Publish 30 questions to train on and 40 to test on, the first `shared` of which are about the same patients."""

    def build(
        shared: int = 0, show: bool = False, counts: dict[str, Any] | None = None, more: bytes = b"", **sections: Any
    ) -> Artifact:
        folder = tmp_path / "data"
        rows = [sample(n, "train", f"{PATIENT}{n}") for n in range(30)]
        rows += [sample(n, "test", f"{PATIENT}{n if n < shared else n + 100}") for n in range(40)]
        shards.write(folder, rows, ())
        bad = {"file": FILE, "row": 7, "key": "image", "reason": f"no file '{FILE}' of patient {PATIENT}"}
        unnumbered = {"file": FILE, "row": 0, "key": SURNAME, "reason": "the image cannot be read"}  # as a build does
        of_table = {"file": FILE, "row": 8, "key": PATIENT, "reason": "is given twice"}
        lines = [json.dumps(row) + "\n" for row in (unnumbered, of_table, *[bad] * 28)]
        (folder / "quarantine.jsonl").write_bytes("".join(lines).encode() + more)
        known = {
            "rows": 70,
            "by_split": {"train": 30, "test": 40},
            "quarantined": {bad["reason"]: 30},
            **(counts or {}),
        }
        recipe = {"name": "chest", "data": {"form": "strict"}, "platform": {"show_patients": show}, **sections}
        made = store.publish(folder, ws.store, "data", known, {"recipe": recipe, "terms": APACHE.as_dict()})
        shutil.rmtree(folder)
        return made

    return build


def test_a_data_set_shows_its_counts_its_audit_its_terms_and_what_was_made_of_it(ws: Workspace, build: Build) -> None:
    made = build()
    assert "none</span>" in browser(ws).get("/data").text
    audit.audit_artifact(ws, made.uri)
    api = tracking.client(ws)
    api.create_registered_model("Größe")
    api.create_model_version("Größe", source="/x", tags={"medmim.data": made.digest})
    listed = browser(ws).get("/data").text
    assert made.digest[:12] in listed and "chest" in listed and '<span class="tag good">clean</span>' in listed
    page = browser(ws).get(f"/data/{made.digest}").text
    rows = {
        row[0]: row[1:]
        for row in re.findall(r'<th scope="row">(\w+)</th>.*?>(\d+)<.*?>(\d+)<.*?>(\d+)<.*?<b>(\d+)', page)
    }
    assert rows == {
        "temporal": ("20", "0", "26", "46"), "single": ("10", "0", "14", "24"),
        "covid": ("15", "0", "20", "35"), "rsna": ("15", "0", "20", "35"),
        "closed": ("15", "0", "20", "35"), "open": ("15", "0", "20", "35"),
    }  # fmt: skip
    assert "No two splits share" in page and "redistribute data: allowed" in page
    checks = dict(re.findall(r'<th scope="row">([\w-]+)</th><td class="num">(.*?)</td>', page))
    assert checks["patients"] == "0" and checks["pixels"] == "–" and "built without pixels" in page
    assert "Größe version 1" in page and "/models/Gr%C3%B6%C3%9Fe/1" in page


def test_checks_are_judged_by_the_recipe_that_made_the_data_set(ws: Workspace, build: Build) -> None:
    made = build(shared=5, audit={"max_shared_patients": 5, "max_label": None})
    audit.audit_artifact(ws, made.uri)
    page = browser(ws).get(f"/data/{made.digest}").text
    cells = r'<th scope="row">([\w-]+)[^<]*</th><td class="num">(.*?)</td><td>.*?</td><td class="num">(.*?)</td>'
    rows = {name: found for name, *found in re.findall(cells, page)}
    assert rows["patients"] == ["5", "5"]
    assert rows["images"] == ['<span class="tag warn">5</span>', "0"]
    assert rows["label-balance"][1] == "–"


def test_the_list_names_each_check_that_has_found_something_or_could_not_be_made(ws: Workspace, build: Build) -> None:
    made = build(shared=5, audit={"max_shared_patients": 5, "max_label": None})
    audit.audit_artifact(ws, made.uri)
    listed = re.sub(r"<[^>]*>", "\n", browser(ws).get("/data").text)
    said = dict(re.findall(r"(beyond its limit|found, without a limit|not measured): (.*)", listed))
    assert "images 5" in said["beyond its limit"] and "patients" not in said["beyond its limit"]
    assert "image_sets 5" in said["found, without a limit"]
    assert {"pixels", "look-alikes"} <= set(said["not measured"].split(", "))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({}, "those of the recipe that made the data set"),
        ({"audit": {"max_of_another_version": 1}}, "the default ones: the recipe that made the data set is of another"),
    ],
)
def test_a_page_says_whose_limits_it_judges_by(
    ws: Workspace, build: Build, sections: dict[str, Any], said: str
) -> None:
    made = build(**sections)
    audit.audit_artifact(ws, made.uri)
    assert f"beside their limits: {said}" in browser(ws).get(f"/data/{made.digest}").text
    bare = store.publish(ws.fetch(made.uri), f"{ws.store}2", "data", {}, {})
    assert audit.whose_limits(bare) == "the default ones: no recipe of the data set is recorded"


def test_questions_that_are_not_clean_are_listed_a_page_at_a_time_without_their_patients(
    ws: Workspace, build: Build
) -> None:
    made = build(shared=28)
    audit.audit_artifact(ws, made.uri)
    client = browser(ws)
    assert "shares 28 patients" in client.get("/data").text
    page = client.get(f"/data/{made.digest}").text
    assert "28 patients and 28 images are in several splits" in page and "The 28 questions that are not clean" in page
    first, second = (client.get(f"/data/{made.digest}/leaks?page={n}").text for n in (1, 2))
    assert (first.count("&lt;script&gt;"), second.count("&lt;script&gt;")) == (25, 3)
    assert "<script>alert" not in first
    for shown in (page, first, second, client.get(f"/data/{made.digest}/quarantine").text):
        assert PATIENT not in shown
    beyond = client.get(f"/data/{made.digest}/leaks?page=9")
    assert beyond.status_code == 404 and "it has 2 pages" in beyond.text


def test_rows_that_were_left_out_name_files_and_values_only_where_the_recipe_says_so(
    ws: Workspace, build: Build
) -> None:
    closed, open_ = build(), build(shared=1, show=True)
    client = browser(ws)
    page = client.get(f"/data/{closed.digest}").text + client.get(f"/data/{closed.digest}/quarantine").text
    assert "no file … of patient …" in page and PATIENT not in page and FILE not in page
    assert SURNAME not in page and "<td>image</td>" in page, "a key is a column, or a patient"
    page = client.get(f"/data/{open_.digest}/quarantine?page=1").text
    assert FILE in page and PATIENT in page and SURNAME in page and page.count("<tr>") == 26
    assert client.get(f"/data/{open_.digest}/quarantine?page=2").text.count("<tr>") == 6
    assert PATIENT in client.get(f"/data/{open_.digest}").text


def test_what_is_half_written_gone_or_of_an_erased_patient_is_told(ws: Workspace, build: Build) -> None:
    made = build()
    client = browser(ws)
    half = Path(ws.store) / "data" / ("e" * 64)
    half.mkdir()
    (half / "README.md").write_text("x")
    assert "e" * 12 not in client.get("/data").text
    for path in ("", "/leaks", "/quarantine"):
        answer = client.get(f"/data/{'e' * 64}{path}")
        assert answer.status_code == 404 and "there is no data set" in answer.text
    assert client.get(f"/data/{made.digest}/leaks").status_code == 404
    assert client.get("/data/../decisions").status_code == 404 and client.get("/data/x").status_code == 400
    record = {"marked": [{"name": f"data/{made.digest}"}]}
    store.open_store(ws.store).write(f"{erased.FOLDER}/records/1.json", json.dumps(record).encode())
    assert "a patient who was erased" in client.get(f"/data/{made.digest}").text


def test_a_damaged_file_of_questions_is_named(ws: Workspace, build: Build) -> None:
    made = build(shared=1)
    audit.audit_artifact(ws, made.uri)
    (Path(made.uri) / "samples" / "test-00000-of-00001.parquet").write_text("no parquet")
    shutil.rmtree(ws.cache, ignore_errors=True)
    answer = browser(ws).get(f"/data/{made.digest}/leaks")
    told = re.findall("<h1[^>]*>(.*)</h1>", answer.text)
    assert (answer.status_code, told) == (500, [f"{made.uri} is damaged"])


@pytest.mark.parametrize("line", [b'{"file": "a', b"7\n", b"\xff\n"])
def test_a_line_of_the_rows_left_out_that_cannot_be_read_is_named(ws: Workspace, build: Build, line: bytes) -> None:
    address = f"/data/{build(more=line).digest}/quarantine"
    client = browser(ws)
    assert client.get(f"{address}?page=1").status_code == 200, "it is not on this page"
    answer = client.get(f"{address}?page=2")
    assert answer.status_code == 500 and "line 31 of quarantine.jsonl" in answer.text
    assert not list(ws.home.glob("**/*.log")), "no traceback is kept of what is no fault of ours"


def test_without_mlflow_a_data_set_is_shown_all_the_same(ws: Workspace, build: Build) -> None:
    made = build()
    answer = browser(replace(ws, tracking="http://127.0.0.1:9")).get(f"/data/{made.digest}")
    assert answer.status_code == 200 and "Not known just now: MLflow at" in answer.text
