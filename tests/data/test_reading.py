"""Several sources in one data set: folders, terms, errors together, and one that another distribution brings."""

import importlib
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from medmim import shards, terms
from medmim.data import build, reading
from medmim.data.sources import phantom
from medmim.data.sources.source import Source
from medmim.errors import UserError
from medmim.recipe import loading, schema, sources
from medmim.run.workspace import workspace
from tests.support import med_mim_files as files


def recipe(*entries: dict[str, Any], **keys: Any) -> schema.Recipe:
    data = {"sources": list(entries), "dev_fraction": 0.1, "test_fraction": 0.3, **keys}
    return loading.validate({"name": "mixed", "data": data}, "test")


def test_two_sources_are_built_as_each_alone_and_their_paths_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    covid = {"name": "covid_chestxray", "root": str(files.write_covid(tmp_path / "raw", files.covid_rows(8)))}
    drawn = {"name": "phantom", "patients": 30}
    place = workspace(tmp_path / "home")

    def built(*entries: dict[str, Any]) -> dict[tuple[Any, ...], Any]:
        folder = place.fetch(build.run(recipe(*entries), place).uri)
        return {(s.source, s.images, s.question, frozenset(s.options)): s for s in shards.read_samples(folder)}

    both, alone = built(drawn, covid), {**built(drawn), **built(covid)}
    assert {sample.paths[0].split("/")[0] for sample in both.values()} == {"phantom", "covid_chestxray"}
    assert all(len({path.split("/")[0] for path in sample.paths}) == 1 for sample in both.values())
    assert {sample.source for sample in both.values()} == {sample.source for sample in alone.values()}
    assert {sample.id for sample in both.values()} == {sample.id for sample in alone.values()}  # a benchmark stays


def test_the_strictest_terms_hold(tmp_path: Path) -> None:
    covid = {"name": "covid_chestxray", "root": str(tmp_path)}
    assert reading.of(recipe({"name": "phantom"}).data).terms == terms.APACHE
    assert set(reading.of(recipe({"name": "phantom"}, covid).data).terms.refused) == set(terms.FLAGS)


def test_the_errors_of_all_sources_come_together(tmp_path: Path) -> None:
    entries = [{"name": name, "root": str(tmp_path / name)} for name in ("covid_chestxray", "published")]
    with pytest.raises(UserError) as caught:
        reading.of(recipe(*entries).data).load()
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "covid_chestxray (data.sources.0)",
        "published (data.sources.1)",
    ]
    assert "fix: set data.sources.1.root in the recipe" in caught.value.problems[1]


def test_a_root_of_a_source_is_below_the_root_of_all(tmp_path: Path) -> None:
    given = recipe(
        {"name": "embed", "root": "embed"},
        {"name": "lumiere", "root": "/elsewhere"},
        {"name": "odir", "root": "s3://bucket/odir"},
        {"name": "vqa_rad"},
        root="s3://raw/all/",
    )
    roots = [own.root for own in given.data.read_from if isinstance(own, sources.Files)]
    assert roots == ["s3://raw/all/embed", "/elsewhere", "s3://bucket/odir", "s3://raw/all/"]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"name": "enbed"}, "did you mean 'embed'?"),
        ({"name": "embed", "slices": 3}, "data.sources.0.slices: unknown"),
        ({"name": "phantom", "patients": 0}, "data.sources.0.patients:"),
    ],
)
def test_a_wrong_entry_is_named_with_its_key(entry: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe(entry)
    assert any(problem in line for line in caught.value.problems), caught.value.problems


def test_source_and_sources_exclude_each_other_and_no_name_comes_twice() -> None:
    for data in ({}, {"source": "phantom", "sources": [{"name": "phantom"}]}):
        with pytest.raises(UserError, match="1 problem"):
            loading.validate({"name": "x", "data": data}, "test")
    with pytest.raises(UserError, match="twice"):
        reading.of(recipe({"name": "odir", "root": "a"}, {"name": "odir", "root": "b"}).data)


def test_a_source_of_another_distribution_gets_its_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module, asked = ModuleType("elsewhere"), []

    def load(entry: Any) -> Source:
        asked.append(entry.own)
        return Source(no_pictures, studies=phantom.patients(30, 0), families=phantom.FAMILIES)

    module.TERMS, module.inputs, module.load = terms.APACHE, lambda entry: {}, load  # type: ignore[attr-defined]
    monkeypatch.setattr(EntryPoint, "load", lambda self: module)
    point = EntryPoint("elsewhere", "elsewhere", sources.ENTRY_POINTS)
    vars(point)["dist"] = SimpleNamespace(version="1.0")
    given = EntryPoints([point])
    for place in (sources, reading):
        monkeypatch.setattr(place, "entry_points", lambda **wanted: given.select(**wanted))
    made = recipe({"name": "elsewhere", "root": "x", "options": {"depth": 3}}, rows_only=True)
    assert build.run(made, workspace(tmp_path)).facts["rows"] > 10
    assert (asked[0].name, asked[0].options) == ("elsewhere", {"depth": 3})
    assert build.run(made, workspace(tmp_path)).cached
    vars(point)["dist"] = SimpleNamespace(version="1.1")  # it may read the same files otherwise now
    assert not build.run(made, workspace(tmp_path)).cached


def test_the_source_in_the_docs_builds_a_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    (code,) = [part.split("```")[0] for part in page.split("```python\n")[1:]]
    distribution(monkeypatch, tmp_path, code, "1.0")
    names = [f"{patient}-{time}.png" for patient in range(60) for time in range(2)]
    raw = tmp_path / "raw"
    raw.mkdir()
    for number, name in enumerate(names):
        Image.linear_gradient("L").resize((8 + number, 8)).save(raw / name)
    lines = [f"{name.split('-')[0]},{name},{('nodule', 'cyst')[number % 2]}\n" for number, name in enumerate(names)]
    (raw / "index.csv").write_text("patient,file,finding\n" + "".join(lines))
    made = recipe({"name": "our_pacs", "root": str(raw)})
    first = build.run(made, workspace(tmp_path))
    assert first.facts["rows"] > 60 and build.run(made, workspace(tmp_path)).cached
    distribution(monkeypatch, tmp_path, code, "1.1")
    assert not build.run(made, workspace(tmp_path)).cached


@pytest.mark.parametrize(
    ("code", "words"),
    [("import nowhere", "cannot be imported"), ("def load(:", "cannot be imported"), ("", "lacks inputs, load, TERMS")],
)
def test_a_source_that_breaks_the_contract_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, words: str
) -> None:
    distribution(monkeypatch, tmp_path, code, "1.0")
    with pytest.raises(UserError, match=f"the source our_pacs {words}"):
        reading.of(recipe({"name": "our_pacs", "root": "x"}).data)


def distribution(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str, version: str) -> None:
    """Another distribution with one module, found by its entry point as one that is installed."""
    facts = folder / "our_package.dist-info"
    facts.mkdir(exist_ok=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: our-package\nVersion: {version}\n")
    (facts / "entry_points.txt").write_text(f"[{sources.ENTRY_POINTS}]\nour_pacs = our_package_pacs\n")
    (folder / "our_package_pacs.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "our_package_pacs", raising=False)
    importlib.invalidate_caches()


def no_pictures(path: str) -> bytes:
    raise FileNotFoundError(path)
