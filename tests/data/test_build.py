"""The stage `data`: golden bytes, splits without overlap, quarantine with reasons, resuming after a kill."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medmim import shards, store
from medmim.data import build, reading
from medmim.data.abilities.ask import FIXED_OPTIONS
from medmim.data.sources import phantom
from medmim.data.sources.source import Source
from medmim.errors import UserError
from medmim.recipe import loading, schema
from medmim.run.stage import Outcome
from medmim.run.workspace import workspace
from medmim.sample import BadRow, Finding, Sample, Study, digest_of

# What 30 patients of seed 0 give. It changes with every change of drawing, questions, words or split.
GOLDEN = "d64c152ae1075bb8f9c0343f4ab004124faad5ff4c5e85fd44648a28c06129c5"


def demo(patients: int = 30, **data: Any) -> schema.Recipe:
    return loading.validate({"name": "test", "data": {"source": "phantom", "patients": patients, **data}}, "test")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    ws = workspace(tmp_path_factory.mktemp("home"))
    outcome = build.run(demo(90, test_fraction=0.3, dev_fraction=0.1), ws)
    return outcome, ws.fetch(outcome.uri)


def png(level: int = 7) -> bytes:
    out = io.BytesIO()
    picture = Image.new("L", (16, 16), level)
    picture.putpixel((3, 3), 255)
    picture.save(out, "PNG")
    return out.getvalue()


def ready(paths: tuple[str, ...], question: str = "How?") -> Sample:
    return Sample(
        "temporal", "change", "s", "train", False, ("p",), paths, paths, question, ("worse", "stable"), "worse", (0,)
    )


def source(files: dict[str, bytes], samples: list[Sample] | None = None, **more: Any) -> Source:
    def read(path: str) -> bytes:
        try:
            return files[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    return Source(read, samples=samples, **more)


def test_the_bytes_of_a_small_phantom_set_are_those_of_this_revision(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    samples = shards.read_samples(ws.fetch(build.run(demo(), ws).uri))
    found = digest_of(repr(sample) for sample in samples)
    assert found == GOLDEN, (
        "the data step makes other bytes than before: if that is meant, bump REVISION in medmim/data/build.py, "
        f"so that no cached data set is taken for the new one, and set GOLDEN to {found}"
    )


def test_no_patient_and_no_image_is_in_two_splits(built: tuple[Outcome, Path]) -> None:
    seen: dict[str, set[str]] = {}
    for sample in shards.read_samples(built[1]):
        for name in (*sample.patients, *sample.images):
            seen.setdefault(name, set()).add(sample.split)
    assert all(len(splits) == 1 for splits in seen.values())


def test_every_image_of_a_sample_is_in_the_data_set_once(built: tuple[Outcome, Path]) -> None:
    images = shards.Images(built[1])
    named = {name for sample in shards.read_samples(built[1]) for name in sample.images}
    assert set(images) == named
    assert all(name.startswith("sha256:") for name in named)


def test_an_id_names_one_sample(built: tuple[Outcome, Path]) -> None:
    ids = [sample.id for sample in shards.read_samples(built[1])]
    assert len(set(ids)) == len(ids)


def test_single_images_are_asked_about_in_training_only(built: tuple[Outcome, Path]) -> None:
    samples = shards.read_samples(built[1])
    assert {s.split for s in samples if s.ability == "single"} == {"train"}


def test_held_out_domains_are_in_test_only(built: tuple[Outcome, Path]) -> None:
    samples = shards.read_samples(built[1])
    assert {s.split for s in samples if s.held_out} == {"test"}
    assert not {s.source for s in samples if s.held_out} & {s.source for s in samples if not s.held_out}


def test_some_questions_are_open_in_every_split(built: tuple[Outcome, Path]) -> None:
    samples = [s for s in shards.read_samples(built[1]) if s.family != "describe"]
    share = {name: [not s.options for s in samples if s.split == name] for name in ("train", "test")}
    assert 0.24 < sum(share["train"]) / len(share["train"]) < 0.36
    assert 0.04 < sum(share["test"]) / len(share["test"]) < 0.16


def test_the_swapped_option_is_the_other_answer_and_never_the_gold_one(built: tuple[Outcome, Path]) -> None:
    other = {"improved": "worse", "worse": "improved"}
    seen = set()
    for s in shards.read_samples(built[1]):
        texts = {s.options[i] for i in s.swapped}
        assert not set(s.swapped) & set(s.gold)
        if s.ability == "single" or not s.options or s.answer in ("stable", "same size"):
            assert texts == set()
        elif s.family.startswith("which_") or s.family == "larger":
            assert texts == {f"image {int(s.answer[-1]) % len(s.images) + 1}"}
        elif s.family == "change":
            assert texts == {other[s.answer]}
        elif s.family.startswith("what_"):
            assert len(texts) == 1
        else:
            assert texts == set()
        seen.add((s.family, bool(texts)))
    assert {
        ("change", True),
        ("change", False),
        ("assessment", False),
        ("which_size", True),
        ("what_size", True),
    } <= seen


def test_the_counts_are_those_of_the_rows(built: tuple[Outcome, Path]) -> None:
    facts, samples = built[0].facts, shards.read_samples(built[1])
    assert facts["rows"] == len(samples) == sum(facts["by_ability"].values()) == sum(facts["by_split"].values())
    assert facts["held_out"] == sum(s.held_out for s in samples)
    assert facts["patients"] == len({p for s in samples for p in s.patients})
    assert facts["quarantined"] == {} and facts["missing_images"] == 0


def test_a_second_run_finds_the_first_and_another_seed_does_not(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    first, again, other = build.run(demo(), ws), build.run(demo(), ws), build.run(demo(seed=1), ws)
    assert (again.cached, again.digest, again.facts) == (True, first.digest, first.facts)
    assert other.digest != first.digest


def test_the_size_of_stored_images_changes_no_item_but_the_data_set(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.effect_noise((300, 200), 60).save(out, "PNG")
    found = []
    for side in (64, 128, 512):
        folder = tmp_path / str(side)
        folder.mkdir()
        build.make([source({"a": out.getvalue(), "b": png()}, [ready(("a", "b"))])], demo(max_side=side).data, folder)
        samples = shards.read_samples(folder)
        images = shards.Images(folder)
        sizes = [images[image].size for image in samples[0].images]
        found.append(([sample.id for sample in samples], sizes))
    assert [ids for ids, _ in found] == [found[0][0]] * 3
    assert [sizes for _, sizes in found] == [[(64, 43), (16, 16)], [(128, 85), (16, 16)], [(300, 200), (16, 16)]]


def test_phantoms_are_stored_as_they_are_drawn_and_another_size_is_another_step(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    first, other = build.run(demo(), ws), build.run(demo(max_side=512), ws)
    assert other.digest == first.digest and not other.cached


def test_the_path_of_the_input_is_not_in_the_cache_key(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    build.run(demo(), ws)
    assert build.run(demo(root="other"), ws).cached


def test_a_killed_build_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    whole = build.run(demo(60), workspace(tmp_path / "whole"))
    code = (
        "import sys; from pathlib import Path; from medmim.run.workspace import workspace\n"
        "from medmim.recipe import loading; from medmim.data import build\n"
        "r = loading.validate({'name': 'test', 'data': {'source': 'phantom', 'patients': 60}}, 'test')\n"
        "build.run(r, workspace(Path(sys.argv[1])))"
    )
    home = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", code, home], stderr=subprocess.DEVNULL)
    index = None
    for _ in range(3_000):
        index = next(iter(home.glob("work/*/resume/index.jsonl")), None)
        if index and index.stat().st_size > 2_000:
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert index is not None and index.exists(), "the build ended before it could be killed"
    tried = index.read_bytes().count(b"\n")
    assert not list(home.glob("store/data/*"))
    drawn = []
    ws, draw = workspace(home), phantom.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom, "draw", lambda scene, rng: drawn.append(scene) or draw(scene, rng))
        assert build.run(demo(60), ws).digest == whole.digest
    assert len(drawn) <= len(phantom.patients(60, 0)) - tried


def test_bad_images_and_their_rows_are_quarantined_with_reasons(tmp_path: Path) -> None:
    files = {"a": png(1), "b": png(2), "empty": b"", "text": b"hello", "cut": png(3)[:40]}
    samples = [ready(("a", "b")), *(ready(("a", name)) for name in ("empty", "text", "cut", "absent"))]
    data = demo(max_bad_fraction=0.9).data
    counts = build.make([source(files, samples)], data, tmp_path)
    (kept,) = shards.read_samples(tmp_path)
    assert kept.paths == ("a", "b") and kept.images[0].startswith("sha256:")
    rows = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert {row["file"] for row in rows} == {"empty", "text", "cut", "absent"}
    assert sum(counts["quarantined"].values()) == 4
    assert counts["missing_images"] == 1
    assert (tmp_path / "missing_images.txt").read_text() == "absent\n"


def test_too_many_bad_rows_are_an_error_that_names_them(tmp_path: Path) -> None:
    samples = [ready(("a",)), ready(("absent",))]
    with pytest.raises(UserError, match="1 of 2 rows are bad") as caught:
        build.make([source({"a": png()}, samples)], demo(max_bad_fraction=0.4).data, tmp_path)
    assert caught.value.exit_code == 2
    assert "absent" in caught.value.problems[0]
    assert not list(tmp_path.rglob("*.parquet"))


def test_rows_that_the_source_quarantined_count_too(tmp_path: Path) -> None:
    bad = [BadRow("f.json", 3, "images", "is empty"), BadRow("f.json", 3, "answer", "is empty")]
    given = source({"a": png()}, [ready(("a",))], bad=bad)
    assert build.make([given], demo(max_bad_fraction=0.5).data, tmp_path)["quarantined"] == {"is empty": 2}
    with pytest.raises(UserError, match="1 of 2 rows"):
        build.make([given], demo(max_bad_fraction=0.49).data, tmp_path)


def test_rows_only_reads_no_pixel_and_keeps_paths_as_ids(tmp_path: Path) -> None:
    data = demo(rows_only=True).data
    counts = build.make([source({}, [ready(("a", "b"))], missing=["b"])], data, tmp_path)
    assert shards.read_samples(tmp_path)[0].images == ("a", "b")
    assert counts["missing_images"] == 1
    assert not (tmp_path / "images").exists()


def test_a_study_with_a_bad_image_is_in_no_question(tmp_path: Path) -> None:
    real = reading.of(demo(60).data).load()[0]
    broken = (real.studies or [])[0].image
    cut = Source(lambda path: b"" if path == broken else real.read(path), studies=real.studies, families=real.families)
    build.make([cut], demo(60).data, tmp_path)
    assert broken not in {path for s in shards.read_samples(tmp_path) for path in s.paths}
    assert json.loads((tmp_path / "quarantine.jsonl").read_text())["file"] == broken


def test_nothing_to_ask_is_an_error(tmp_path: Path) -> None:
    single = Study("s", "p", "a", "X-ray")
    with pytest.raises(UserError, match="nothing to ask"):
        build.make([source({"a": png()}, studies=[single])], demo(abilities=("temporal",)).data, tmp_path)


@pytest.mark.parametrize("change", [{"question": "\ud83d?"}, {"options": ("a", "\udc00")}, {"patients": ("\udfff",)},
                                    {"paths": ("\ud800.png",)}, {"answer": "\ude00\ud83d"}])  # fmt: skip
def test_text_that_no_file_can_hold_does_not_end_a_build(tmp_path: Path, change: dict[str, Any]) -> None:
    given = source({"a": png()}, [ready(("a",)), replace(ready(("a",)), **change)])
    counts = build.make([given], demo(max_bad_fraction=0.5).data, tmp_path)
    assert counts["quarantined"] == {"holds half a surrogate pair, which is no character": 1}
    assert len(shards.read_samples(tmp_path)) == 1
    assert "surrogate" in json.loads((tmp_path / "quarantine.jsonl").read_text(encoding="utf-8"))["reason"]


def test_a_study_whose_text_no_file_can_hold_is_quarantined(tmp_path: Path) -> None:
    real = reading.of(demo(60).data).load()[0]
    studies = real.studies or []
    studies = [replace(studies[0], findings=(Finding("\ud83d"),)), *studies[1:]]
    bad = BadRow("\udcff.json", 1, "\ud83d", "holds '\udfff'")
    counts = build.make([replace(real, studies=studies, bad=[bad])], demo(60).data, tmp_path)
    assert sum(counts["quarantined"].values()) == 2
    lines = (tmp_path / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["\\ud83d", studies[0].patient]


def test_what_helps_unusable_images_is_in_the_errors_fix(tmp_path: Path) -> None:
    given = source({"a": png()}, [ready(("a",)), ready(("absent",))], fix_for=lambda paths: f"fetch {sorted(paths)}")
    with pytest.raises(UserError) as caught:
        build.make([given], demo(max_bad_fraction=0.4).data, tmp_path)
    assert caught.value.fix.startswith("fetch ['absent', 'absent'], or raise")
    given = source({}, studies=[], missing=["x.png"], fix_for=lambda paths: f"fetch {sorted(paths)}")
    with pytest.raises(UserError, match="nothing to ask") as caught:
        build.make([given], demo().data, tmp_path)
    assert caught.value.fix == "fetch ['x.png']"
    with pytest.raises(UserError, match="1 rows were read") as caught:
        build.make([source({}, studies=[], missing=["x.png"])], demo().data, tmp_path)
    assert caught.value.fix == "give the folder that holds x.png as data.root"


def test_the_counts_say_what_was_dropped_and_for_how_many_patients_groups_were_made(
    built: tuple[Outcome, Path], tmp_path: Path
) -> None:
    facts = built[0].facts
    assert facts["sized_for"] and all(n & (n - 1) == 0 for n in facts["sized_for"].values())
    assert set(facts["balanced"]) <= set(FIXED_OPTIONS)
    for split, families in facts["majority"].items():
        for family, share in families.items():
            golds = [s.answer for s in shards.read_samples(built[1], split) if s.family == family and s.options]
            assert share == round(max(golds.count(gold) for gold in golds) / len(golds), 3)
    pinned = demo(90, test_fraction=0.3, dev_fraction=0.1, sized_for=facts["sized_for"], rows_only=True).data
    again = build.make([reading.of(pinned).load()[0]], pinned, tmp_path)
    assert again["sized_for"] == facts["sized_for"] and again["rows"] == facts["rows"]


def test_a_pool_that_the_data_do_not_have_is_an_error(tmp_path: Path) -> None:
    data = demo(30, sized_for={"phantom-chests": 8}, rows_only=True).data
    with pytest.raises(UserError, match="phantom-chests") as caught:
        build.make([reading.of(data).load()[0]], data, tmp_path)
    assert "phantom-chest, " in caught.value.reason


def test_who_is_held_out_by_one_source_is_not_trained_on_in_another(tmp_path: Path) -> None:
    def films(name: str, held_out: bool, count: int) -> Source:
        made = [Study(name, str(i), f"{name}{i}-{t}", "X-ray", float(t), held_out=held_out) for i in range(count)
                for t in (0, 9)]  # fmt: skip
        return source({}, studies=made, families=("order",))

    counts = build.make([films("mmxu", False, 30), films("ms_cxr_t", True, 12)], demo(rows_only=True).data, tmp_path)
    rows = shards.read_samples(tmp_path)
    held_out = {patient for row in rows if row.held_out for patient in row.patients}
    assert len(held_out) == 12 and counts["patients"] == 30
    assert {row.split for row in rows if held_out.intersection(row.patients)} == {"test"}


def test_link_roots_are_not_in_the_cache_key(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    build.run(demo(), ws)
    assert build.run(demo(link_roots=[str(tmp_path)]), ws).cached


def test_the_manifest_names_every_file(built: tuple[Outcome, Path]) -> None:
    names = set(store.get(built[0].uri).files)
    assert {"README.md", "quarantine.jsonl", "missing_images.txt", "images/images-00000-of-00001.parquet"} <= names
    assert {f"samples/{split}-00000-of-00001.parquet" for split in ("train", "dev", "test")} <= names


def test_an_image_of_two_articles_is_kept_in_one_and_in_the_benchmark_first(tmp_path: Path) -> None:
    def figure(article: str, image: str, held_out: bool = False) -> Study:
        return Study("pmc", article, image, "CT", caption=f"CT {article} of {image}.", held_out=held_out)

    files = {name: png(level) for level, name in enumerate(("a1", "b1", "c1", "d1"), 10)}
    files |= {"b-a1": files["a1"], "h-c1": files["c1"], "a2": files["a1"]}
    own = [figure("B", "b-a1"), figure("A", "a1"), figure("A", "a2"), figure("C", "c1"), figure("B", "b1")]
    other = [replace(figure("H", "h-c1", held_out=True), source="bench")]
    data = demo(max_bad_fraction=1.0, test_fraction=0.0, dev_fraction=0.0).data
    families = ("which_caption", "what_caption", "match_caption", "match_figure")
    make = [source(files, studies=own, families=families), source(files, studies=other, families=families)]
    build.make(reading_as_two(make), data, tmp_path / "out")
    lines = (tmp_path / "out" / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    reasons = {(row["file"], row["key"]): row["reason"].partition(":")[0] for row in map(json.loads, lines)}
    elsewhere = "the same image is another patient's or article's, too"
    again = "the same image is in the records of this patient under another name, too"
    assert reasons == {("pmc/b-a1", "B"): elsewhere, ("pmc/c1", "C"): elsewhere, ("pmc/a2", "A"): again}
    shown = {path for sample in shards.read_samples(tmp_path / "out") for path in sample.paths}
    assert shown and shown <= {"pmc/a1", "pmc/b1"}


@pytest.mark.parametrize(("copy", "left"), [({}, 1), ({"findings": ()}, 0), ({"time": 9.0}, 0)])
def test_a_picture_that_a_patient_has_twice_is_asked_once_and_not_at_all_with_two_truths(
    tmp_path: Path, copy: dict[str, Any], left: int
) -> None:
    """Which of two equal images shows the nodule?"""
    files, studies = {}, []
    for number in range(20):
        image = Study("s", f"P{number}", f"{number}-a", "X-ray", 0.0, "PA", findings=(Finding("nodule"),))
        files |= {f"{number}-a": png(100 + number), f"{number}-b": png(100 + number), f"{number}-c": png(200 + number)}
        other = replace(image, image=f"{number}-c", time=50.0, findings=())
        studies += [image, other, replace(image, image=f"{number}-b", **copy)]
    given = source(files, studies=studies, families=("which_finding", "what_finding", "order", "same_finding"))
    counts = build.make([given], demo(max_bad_fraction=1.0).data, tmp_path)
    assert sum(counts["quarantined"].values()) == 20 * (2 - left)
    samples = shards.read_samples(tmp_path)
    assert samples and all(len(set(sample.images)) == len(sample.images) for sample in samples)
    assert {path[-1] for sample in samples for path in sample.paths} == ({"a", "c"} if left else {"c"})


def reading_as_two(sources: list[Source]) -> list[Source]:
    """Two sources as a recipe that names both reads them."""
    return [reading.below(name, one) for name, one in zip(("pmc", "bench"), sources, strict=True)]
