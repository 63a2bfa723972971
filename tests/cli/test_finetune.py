"""medmim finetune --dry-run: what is printed, and the keys of its JSON."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from medmim import store
from medmim.cli.app import app
from medmim.cli.finetune import finetune
from medmim.finetune import plan
from medmim.lvlm import saving
from medmim.lvlm.mantis import MANTIS
from medmim.run.workspace import workspace
from tests.support.finetune import make_data, make_lvlm, make_samples

RECIPE = {
    "name": "t",
    "data": {"source": "phantom"},
    "finetune": {"batch_size": 8, "steps": 3, "max_tokens": 400, "zero": 2, "lora": {"rank": 4, "alpha": 8}},
    "platform": {"workers": 2},
}
WAYS = [(zero, lora) for lora in (False, True) for zero in (0, 2, 3)]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A dry run of LoRA with ZeRO-2 on two workers, of a small base and data set."""
    root = tmp_path_factory.mktemp("dry")
    base = saving.save(make_lvlm(MANTIS), root / "base").path
    data = store.publish(make_data(root / "data", make_samples(12)), workspace(root / "home").store, "data", {}, {})
    (root / "recipe.yaml").write_text(json.dumps(RECIPE))
    given = ["--data", data.uri, "--base", str(base), "--home", str(root / "home")]
    return ["finetune", str(root / "recipe.yaml"), *given, "--dry-run"]


def call(command: list[str], *more: str) -> str:
    ended = CliRunner().invoke(app, [*command, *more])
    assert ended.exit_code == 0, ended.output
    return str(ended.stdout)


def cells(line: str) -> list[str]:
    """Of a line of the table, whose columns are two spaces apart at least."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_the_json_has_the_keys_that_the_command_s_help_names(command: list[str]) -> None:
    found = json.loads(call(command, "--json"))
    named = " ".join(str(finetune.__doc__).split()).partition("With --dry-run: ")[2].partition(" and memory:")
    assert set(found) == {*named[0].split(", "), "memory"}
    of_way = named[2].partition("its ")[2].rstrip(". ").replace(" and ", ", ").split(", ")
    for way in found["memory"]:
        assert set(way) == set(of_way)
        for part in way["parts"]:
            assert set(part) == {"name", "device_gib", "host_gib", "passing"}
    assert [(way["zero"], way["lora"]) for way in found["memory"]] == WAYS
    assert [(way["zero"], way["lora"]) for way in found["memory"] if way["ours"]] == [(2, True)]
    assert (found["steps"], found["workers"], found["samples"]) == (3, 2, 12)
    assert 0 < found["checkpoint_gib"] < found["memory_gib"]


@pytest.mark.parametrize("gpu", [False, True])
def test_the_table_has_a_column_for_each_way_and_a_row_for_each_part(
    command: list[str], gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "on_gpu", lambda _: gpu)
    facts: dict[str, Any] = json.loads(call(command, "--json"))
    lines = call(command).splitlines()
    top, table = lines[: lines.index("")], lines[lines.index("") + 1 :]
    shown = dict(line.rsplit(maxsplit=1) for line in top)
    assert set(shown) == {key.replace("_", " ") for key in facts if key != "memory"}
    assert float(shown["checkpoint gib"]) == facts["checkpoint_gib"] and shown["device"] == ("gpu" if gpu else "cpu")
    names = [f"zero {zero}{' lora' * lora}" for zero, lora in WAYS]
    assert cells(table[0]) == ["GiB of a worker", *(f"* {n}" if n == "zero 2 lora" else n for n in names)]
    rows = {row[0]: row[1:] for row in map(cells, table[1:]) if len(row) == 7}
    parts = {part["name"] + " (for a moment)" * part["passing"] for way in facts["memory"] for part in way["parts"]}
    most = (
        {"most on the GPU": "device_gib", "most in host memory": "host_gib"} if gpu else {"most at once": "device_gib"}
    )
    assert set(rows) == parts | set(most)
    for name, key in most.items():
        assert rows[name] == [f"{way[key]:.2f}" for way in facts["memory"]]
    assert all(cell.endswith(" host") for cell in rows["libraries"]) == gpu
    assert ("CUDA's own context" in table[-1]) == gpu
