import copy
import json
import re
import shlex
import shutil
import sys
import webbrowser
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from medmim import store
from medmim.lvlm import checkpoint, llava, saving
from medmim.lvlm.mantis import MANTIS
from medmim.tiny import architecture
from tests.support import med_mim_files as files
from tests.support import shared_data
from tests.support.s3_proxy import Proxy

TRAIN = "Med_MIM_train_inherent_Comparison.json"


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Medmim = Callable[..., Result]


@pytest.fixture
def medmim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Medmim:
    """Runs the command line in this process, with a home of its own."""
    from medmim.cli.main import main

    def call(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["medmim", *map(str, arguments), "--home", str(tmp_path / "home")])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Result(code, *capsys.readouterr())

    return call


def store_of(tmp_path: Path) -> list[str]:
    """Everything that a command has left in the store."""
    root = tmp_path / "home" / "store"
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def build(medmim: Medmim, root: Path, *more: str, source: str = "published") -> Result:
    return medmim("data", "build", source, "--set", f"data.root={root}", *more)


def test_build_prints_its_contract_and_finds_its_work_again(medmim: Medmim, tmp_path: Path) -> None:
    root = files.write(tmp_path / "raw", files.clean_set(), images=True)
    first = build(medmim, root, "--json")
    assert first.code == 0
    facts = first.json
    assert {"uri", "digest", "rows", "by_ability", "quarantined", "missing_images"} <= set(facts)
    assert (facts["rows"], facts["missing_images"], facts["quarantined"]) == (40, 0, {})
    assert facts["by_ability"] == {"comparison": 30, "composed": 5, "temporal": 5}
    assert str(tmp_path / "home") in first.err  # what it resolved is on stderr
    before = store_of(tmp_path)
    assert build(medmim, root, "--json").json == facts
    assert store_of(tmp_path) == before


def test_an_image_id_is_the_digest_of_its_file_and_without_pixels_its_path(medmim: Medmim, tmp_path: Path) -> None:
    root = files.write(tmp_path / "raw", files.clean_set(), images=True)
    whole = medmim("data", "show", build(medmim, root, "--json").json["uri"], "--json").json["samples"][0]
    rows = medmim("data", "show", build(medmim, root, "--json", "--rows-only").json["uri"], "--json").json["samples"][0]
    assert all(image.startswith("sha256:") for image in whole["images"])
    assert rows["images"] == rows["paths"] == whole["paths"]


def test_rows_only_needs_no_image_at_all_and_counts_them(medmim: Medmim, tmp_path: Path) -> None:
    root = files.write(tmp_path / "raw", files.clean_set())
    facts = build(medmim, root, "--rows-only", "--json").json
    assert (facts["rows"], facts["missing_images"]) == (40, 80)


def test_a_few_bad_rows_are_quarantined_and_counted(medmim: Medmim, tmp_path: Path) -> None:
    rows = files.clean_set()
    rows[TRAIN] = files.comparison(range(100, 300))
    rows[TRAIN][17]["conversation"][1]["content"] = "G: worse"
    result = build(medmim, files.write(tmp_path / "raw", rows, images=True), "--json")
    assert (result.code, result.json["rows"]) == (0, 219)
    assert result.json["quarantined"] == {"option letter G does not exist: the options are A to C": 1}
    shown = medmim("data", "show", result.json["uri"], "--json").json
    assert [(bad["file"], bad["row"]) for bad in shown["quarantine"]] == [(TRAIN, 18)]


def cut(root: Path) -> None:
    text = (root / TRAIN).read_text()
    (root / TRAIN).write_text(text[: len(text) // 2])


def every_row(change: Callable[[files.Row], None]) -> Callable[[Path], None]:
    """Spoils three rows of the train file: more than `max_bad_fraction` allows."""

    def spoil(root: Path) -> None:
        rows = json.loads((root / TRAIN).read_text())
        for row in rows[:3]:
            change(row)
        (root / TRAIN).write_text(json.dumps(rows))

    return spoil


def every_image(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """Spoils the images of three rows."""

    def spoil(root: Path) -> None:
        for patient in range(3):
            change(root / files.film(patient, 1))

    return spoil


def bomb(path: Path) -> None:
    Image.new("1", (60_000, 1)).save(path)
    data = bytearray(path.read_bytes())
    data[20:24] = (60_000).to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(data)


def outside(path: Path) -> None:
    goal = path.parents[4] / f"outside-{path.parts[-3]}.png"
    path.rename(goal)
    path.symlink_to(goal)


def lines(root: Path) -> None:
    rows = json.loads((root / TRAIN).read_text())
    (root / TRAIN).write_text("".join(json.dumps(row) + "\n" for row in rows))


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut off JSON": (cut, "complete rows"),
    "missing image": (every_image(Path.unlink), "image is missing"),
    "placeholder count": (every_row(lambda row: row["images"].pop()), "2 <image> placeholders for 1 images"),
    "empty answer": (every_row(lambda row: row["conversation"][1].update(content=" ")), "the answer is empty"),
    "no such letter": (every_row(lambda row: row["conversation"][1].update(content="H: worse")), "letter H does not"),
    "climbing path": (every_row(lambda row: row.update(images=["../../etc/passwd"] * 2)), "leaves the image root"),
    "truncated image": (every_image(lambda path: path.write_bytes(path.read_bytes()[:-60])), "broken image|cut off"),
    "empty image": (every_image(lambda path: path.write_bytes(b"")), "0 bytes"),
    "text as image": (every_image(lambda path: path.write_text("hello")), "not an image"),
    "bomb": (every_image(bomb), "pixels"),
    "symlink": (every_image(outside), r"through a symlink(.|\n)*fix: --set 'data\.link_roots=\["),
    "DICOM as image": (every_image(lambda path: path.write_bytes(bytes(128) + b"DICM")), "a DICOM file without pixels"),
    "pointer as image": (every_image(lambda path: path.write_text(POINTER)), "Git LFS pointer: `git lfs pull`"),
    "blank image": (every_image(lambda path: Image.new("L", (9, 9)).save(path)), "all pixels"),
    "transparent image": (every_image(lambda path: Image.new("RGBA", (9, 9)).save(path)), "transparent all over"),
    "JSON Lines": (lines, r"is JSON Lines(.|\n)*fix: `python3 -c"),
    "another encoding": (lambda root: (root / TRAIN).write_bytes('["f\u00fcr"]'.encode("cp1252")), "iconv -f"),
    "half a surrogate pair": (
        every_row(lambda row: row["conversation"][0].update(content="<image><image>\ud83d?")),
        r"row 3 \(conversation\.0\.content\): holds half a surrogate pair",
    ),
    "half a surrogate pair in a path": (every_row(lambda row: row["images"].append("\udfff")), "half a surrogate"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_error_exit_2_and_leaves_nothing(medmim: Medmim, tmp_path: Path, name: str) -> None:
    spoil, words = BAD[name]
    root = files.write(tmp_path / "raw", files.clean_set(), images=True)
    spoil(root)
    result = build(medmim, root)
    assert result.code == 2
    assert re.search(words, result.err), result.err
    assert result.err.count("error: ") == 1
    assert "Traceback" not in result.err
    assert result.out == ""
    assert [path for path in store_of(tmp_path) if not path.startswith(("runs/", "locks/"))] == []


def test_after_the_input_is_fixed_the_same_command_works(medmim: Medmim, tmp_path: Path) -> None:
    root = files.write(tmp_path / "raw", files.clean_set(), images=True)
    good = (root / files.film(0, 1)).read_bytes()
    for patient in range(3):
        (root / files.film(patient, 1)).write_bytes(b"")
    assert build(medmim, root).code == 2
    for patient in range(3):
        files.picture(root / files.film(patient, 1))
    assert (root / files.film(0, 1)).read_bytes() == good
    assert build(medmim, root, "--json").json["rows"] == 40


def test_more_bad_rows_pass_where_the_recipe_allows_them(medmim: Medmim, tmp_path: Path) -> None:
    root = files.write(tmp_path / "raw", files.clean_set(), images=True)
    every_image(Path.unlink)(root)
    facts = build(medmim, root, "--set", "data.max_bad_fraction=0.2", "--json").json
    assert (facts["rows"], facts["missing_images"], facts["quarantined"]) == (37, 3, {"image is missing": 3})


def test_audit_prints_every_pair_and_refuses_a_leak(medmim: Medmim, tmp_path: Path) -> None:
    rows = files.clean_set()
    uri = build(medmim, files.write(tmp_path / "clean", rows), "--rows-only", "--json").json["uri"]
    clean = medmim("data", "audit", uri, "--json")
    assert clean.code == 0
    assert len(clean.json["pairs"]) == 3  # one train file, three benchmark files
    for pair in clean.json["pairs"]:
        for measure in ("patients", "image_sets", "images"):
            assert set(pair[measure]) == {"shared", "first", "second"}
        assert {"file", "ability", "split"} <= set(pair["first"])
    rows = copy.deepcopy(rows)
    rows[TRAIN] += files.comparison([20], visits=(5, 6))
    uri = build(medmim, files.write(tmp_path / "leaky", rows), "--rows-only", "--json").json["uri"]
    leaky = medmim("data", "audit", uri, "--json")
    assert leaky.code == 1
    assert leaky.json["benchmark"] == {"rows": 20, "patients": 20, "clean_rows": 19, "clean_patients": 19}
    assert "19 of 19 patients are clean" in leaky.err
    table = medmim("data", "audit", uri)
    assert (table.code, "1 of 10" in table.out) == (1, True)
    loose = tmp_path / "loose.yaml"
    loose.write_text("name: loose\ndata: {source: phantom}\naudit: {max_shared_patients: 1, max_shared_images: 2}\n")
    assert medmim("data", "audit", uri, "--recipe", str(loose)).code == 0


def test_an_audit_judges_by_the_recipe_that_made_the_data_unless_another_or_a_key_is_given(
    medmim: Medmim, tmp_path: Path
) -> None:
    rows = files.clean_set()
    rows[TRAIN] += files.comparison([20], visits=(5, 6))
    root = files.write(tmp_path / "leaky", rows)
    uri = build(medmim, root, "--rows-only", "--json", "--set", "audit.max_shared_patients=1").json["uri"]
    limits = {one["name"]: one["limit"] for one in medmim("data", "audit", uri, "--json").json["checks"]}
    assert (limits["patients"], limits["images"]) == (1, 0)
    assert medmim("data", "audit", uri).code == 0
    of_another = medmim("data", "audit", uri, "--recipe", "published")
    assert (of_another.code, "limits published" in of_another.err) == (1, True)
    assert medmim("data", "audit", uri, "--recipe", "published", "--set", "audit.max_shared_patients=1").code == 0
    stricter = medmim("data", "audit", uri, "--set", "audit.max_shared_patients=0")
    assert (stricter.code, "--set audit.KEY=VALUE" in stricter.err) == (1, True)
    wrong = medmim("data", "audit", uri, "--set", "data.seed=1")
    assert (wrong.code, "no key of the section `audit`" in wrong.err) == (2, True)


def test_what_is_no_data_set_is_refused(medmim: Medmim, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "store" / "data" / "half"
    (folder / "samples").mkdir(parents=True)
    for command in ("audit", "show"):
        result = medmim("data", command, folder)
        assert (result.code, "no manifest.json" in result.err) == (2, True)


def test_real_pixels_become_a_data_set_whose_audit_is_clean(medmim: Medmim, tmp_path: Path) -> None:
    root = files.write_covid(tmp_path / "raw", files.covid_rows(30))
    (root / "images" / "3-0-PA.png").unlink()
    (root / "images" / "4-0-PA.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    facts = build(medmim, root, "--json", source="covid").json
    assert facts["missing_images"] == 1
    assert sum(facts["quarantined"].values()) == 1
    assert min(facts["by_split"]["train"], facts["by_split"]["test"]) > 0
    assert {"temporal", "coreference", "comparison", "reasoning"} <= set(facts["by_ability"])
    assert medmim("data", "audit", facts["uri"]).code == 0


def test_the_setting_that_an_error_names_lets_links_be_read_and_changes_no_digest(
    medmim: Medmim, tmp_path: Path
) -> None:
    root = files.write(tmp_path / "raw", files.clean_set(), images=True)
    plain = build(medmim, root, "--json").json
    for path in [path for path in root.rglob("*.png")]:
        goal = tmp_path / "the cache" / f"{abs(hash(path))}"
        goal.parent.mkdir(exist_ok=True)
        path.rename(goal)
        path.symlink_to(goal)
    refused = build(medmim, root)
    assert refused.code == 2
    option, setting = shlex.split(re.search("fix: (.*) allows the links", refused.err)[1])  # type: ignore[index]
    linked = build(medmim, root, option, setting, "--json").json
    assert (linked["digest"], linked["quarantined"]) == (plain["digest"], {})


def test_what_is_skipped_and_quarantined_is_counted_on_the_screen(medmim: Medmim, tmp_path: Path) -> None:
    rows = files.covid_rows(30)
    rows[0]["finding"] = rows[1]["finding"] = "N/A"
    rows[9]["Patientid"] = rows[8]["Patientid"] = "NaN"
    rows[20]["sex"] = "M"
    shown = build(medmim, files.write_covid(tmp_path / "raw", rows), source="covid")
    assert shown.code == 0
    for line in (
        "skipped 2 rows: finding unknown",
        "quarantined 5 one patient id with two sexes: two people, or a wrong cell",
        "quarantined 2 'NaN' stands for a missing value",
    ):
        assert line in shown.out


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that has learned nothing; its tokenizer and template are what peek needs."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = architecture.train_tokenizer(["What became of the edema? stable worse improved image A: B: C:"], MANTIS)
    model = architecture.build(MANTIS, tokenizer, 0)
    saving.save(llava.Lvlm(model, tokenizer, architecture.image_processor(MANTIS), MANTIS, Path()), folder)
    return folder


def test_show_writes_a_gallery_and_opens_it_where_there_is_a_screen(
    medmim: Medmim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = files.write(tmp_path / "raw", files.clean_set(), images=True)
    uri = build(medmim, root, "--json").json["uri"]
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("DISPLAY", ":7")
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    shown = medmim("data", "show", uri, "-n", "1")
    (path,) = [line.removeprefix("gallery ") for line in shown.err.splitlines() if line.startswith("gallery /")]
    assert Path(path).is_file() and "40 rows" in shown.out and opened == []  # no terminal
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    medmim("data", "show", uri, "--no-open")
    assert opened == []
    medmim("data", "show", uri)
    assert opened == [Path(path).as_uri()]
    shutil.rmtree(tmp_path / "home" / "galleries")
    assert medmim("data", "show", uri, "--json").json["counts"]["rows"] == 40
    assert not (tmp_path / "home" / "galleries").exists()


def test_peek_shows_what_the_model_reads(medmim: Medmim, tmp_path: Path, base: Path) -> None:
    root = files.write(tmp_path / "raw", files.clean_set(), images=True)
    options = ("published", "-n", "2", "--set", f"data.root={root}", "--set", f"finetune.base={base}")
    seen = medmim("data", "peek", *options, "--json").json
    assert [one["ability"] for one in seen] == ["comparison", "temporal"]
    for one in seen:
        trained = "".join(part["text"] for part in one["rendered"] if part["trained"])
        assert trained.endswith("<|eot_id|>")
        assert one["length"] == len(one["tokens"]) > one["trained"] > 0
        assert one["tokens"].count("<image>") == 9 * len(one["images"])
    drawn = medmim("data", "peek", *options)
    assert "24 x 20" in drawn.out
    assert f"{seen[0]['length']} tokens, {seen[0]['trained']} of them trained" in drawn.out


def test_peek_draws_pictures_and_colours_trained_tokens_where_there_is_a_terminal(
    medmim: Medmim, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    root = files.write(tmp_path / "raw", files.clean_set(), images=True)
    drawn = medmim(
        "data", "peek", "published", "--set", f"data.root={root}", "--set", f"finetune.base={base}", "-n", "1"
    )
    assert "▀" in drawn.out
    assert "\x1b[1;32mB: " in drawn.out or "\x1b[1;32mA: " in drawn.out or "\x1b[1;32mC: " in drawn.out


def test_peek_needs_no_pixels(medmim: Medmim, tmp_path: Path, base: Path) -> None:
    root = files.write(tmp_path / "raw", files.clean_set())
    options = ("--set", f"data.root={root}", "--set", f"finetune.base={base}", "--set", "data.rows_only=true")
    assert "no pixels" in medmim("data", "peek", "published", *options).out


def test_of_a_store_in_s3_only_what_is_shown_is_fetched(
    medmim: Medmim, tmp_path: Path, base: Path, bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDMIM_STORE", bucket)
    root = files.write(tmp_path / "raw", files.clean_set(), images=True)
    data = build(medmim, root, "--json").json["uri"]
    model = store.publish(base, bucket, "model", {}, {}).uri
    proxy.reads.clear()
    assert medmim("data", "show", data, "--json").code == 0
    assert not [name for name, _, _ in proxy.reads if "/images/" in name]
    assert medmim("data", "audit", data).code == 0
    assert [name for name, _, _ in proxy.reads if "/images/" in name], "the audit decodes each picture once"
    assert not list((tmp_path / "home").rglob("images-*.parquet*")), "and keeps none"
    proxy.reads.clear()
    assert medmim("data", "audit", data).code == 0
    assert not [name for name, _, _ in proxy.reads if "/images/" in name]
    proxy.reads.clear()
    options = ("--set", f"data.root={root}", "--json")
    there = medmim("data", "peek", "published", "--set", f"finetune.base={model}", *options)
    assert "tokenizer.json" in proxy.names() and "model.safetensors" not in proxy.names()
    here = medmim("data", "peek", "published", "--set", f"finetune.base={base}", *options)
    assert there.json == here.json and f"model {checkpoint.digest(base)}" in there.err
    (base_without := tmp_path / "without").mkdir()
    for file in base.glob("*.json"):
        shutil.copy(file, base_without)
    assert medmim("data", "peek", "published", "--set", f"finetune.base={base_without}", *options).json == here.json


@shared_data.needs("med-mim")
def test_the_published_rows_are_built_and_their_audit_finds_the_leak(medmim: Medmim) -> None:
    facts = build(medmim, shared_data.FOLDER / "med-mim", "--rows-only", "--json").json
    assert facts["by_ability"] == {"comparison": 3572, "composed": 599, "coreference": 1463, "temporal": 933}
    result = medmim("data", "audit", facts["uri"], "--json")
    assert result.code == 1
    assert result.json["benchmark"]["clean_rows"] == 2347
