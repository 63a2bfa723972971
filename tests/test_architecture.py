"""The packages stand as DESIGN draws them: layers, no circles, lazy imports; read from the sources."""

import ast
import resource
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for top in ("medmim", "components", "pipelines")
    for path in sorted((ROOT / top).rglob("*.py"))
}
# From the ground up. What stands in one row does not import its neighbours; see docs/architecture.md.
LAYERS = (
    ("errors", "hints", "network", "progress", "redact", "sample", "shards", "sniff", "stats", "terms"),
    ("store",),
    ("recipe",),
    ("run",),
    ("tracking", "ray_nodes", "page"),
    ("lvlm",),
    ("data",),
    ("finetune", "bench", "doctor"),
    ("registry",),
    ("nightly", "tiny", "cluster"),
    ("housekeeping",),
    ("cli",),
)
GROUND = set(LAYERS[0])  # small files that may know each other; no circles, like everywhere
PACKAGE_DATA = {"shipped"}
LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}
HEAVY = {
    "altair", "datasets", "joblib", "kfp", "kubernetes", "minio", "mlflow", "openai", "pandas", "PIL", "plotly",
    "fastapi", "pyarrow", "ray", "scipy", "sklearn", "statsmodels", "tokenizers", "torch", "transformers", "vl_convert",
}  # fmt: skip


def imports(module: str) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, at its top or within a function, and the line; not those for types alone."""
    tree = ast.parse(FILES[module].read_text("utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for part in node.body
        for inner in ast.walk(part)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: name the whole path, so that layers can be read"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in FILES else str(node.module), node.lineno


def package(module: str) -> str:
    """The package or loose module of medmim that a module is in; empty for medmim itself and its data."""
    part = module.split(".")[1] if "." in module else ""
    return "" if part in PACKAGE_DATA else part


def parents(module: str) -> set[str]:
    parts = module.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}


def modules(top: str) -> list[str]:
    return [name for name in FILES if name.split(".")[0] == top]


def test_every_file_has_a_layer() -> None:
    assert {package(name) for name in modules("medmim")} - {""} <= LEVEL.keys()


@pytest.mark.parametrize("module", modules("medmim"))
def test_a_package_imports_only_the_layers_below(module: str) -> None:
    mine = package(module)
    for name, line in imports(module):
        top = name.split(".")[0]
        assert top not in ("components", "pipelines", "services", "tests"), f"{module}:{line} imports {name}"
        theirs = package(name) if top == "medmim" else ""
        if theirs and theirs != mine:
            below = mine != "" and LEVEL[theirs] < LEVEL[mine]
            assert below or {mine, theirs} <= GROUND, f"{module}:{line}: {mine or 'medmim'} may not import {name}"


@pytest.mark.parametrize("module", list(FILES))
def test_kubernetes_and_kfp_stay_in_their_packages(module: str) -> None:
    outside = module.split(".")[0] in ("components", "pipelines")
    cluster = package(module) == "cluster"
    runner = module == "medmim.run.kfp_local"
    for name, line in imports(module):
        top = name.split(".")[0]
        assert top != "kubernetes" or cluster, f"{module}:{line}: only medmim/cluster speaks to Kubernetes"
        assert top != "kfp" or outside or cluster or runner, f"{module}:{line}: kfp is for cluster and run/kfp_local"


@pytest.mark.parametrize("path", sorted((ROOT / "services").rglob("*.py")), ids=lambda path: path.name)
def test_a_service_imports_what_is_below_the_command_line(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            own = name.split(".")
            assert own[0] not in ("components", "pipelines", "kfp", "kubernetes"), (
                f"{path}:{node.lineno} imports {name}"
            )
            assert own[:2] != ["medmim", "cli"] or name == "medmim.cli.options", f"{path}:{node.lineno} imports {name}"


@pytest.mark.parametrize("module", modules("components"))
def test_a_component_is_thin(module: str) -> None:
    text = FILES[module].read_text("utf-8")
    assert len(text.splitlines()) < 60
    for name, line in imports(module):
        top = name.split(".")[0]
        known = top in ("components", "kfp") or top in sys.stdlib_module_names
        below = top == "medmim" and package(name) != "cli"
        assert known or below, f"{module}:{line}: a component imports medmim below cli and kfp, not {name}"


@pytest.mark.parametrize("module", modules("components"))
def test_what_a_component_runs_is_imported_within_it(module: str) -> None:
    """KFP ships the function's source alone: a name of the module's top is not there when the step runs."""
    for node in ast.parse(FILES[module].read_text("utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            assert str(named).split(".")[0] != "medmim", f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", modules("pipelines"))
def test_a_pipeline_imports_components_the_shared_names_and_kfp(module: str) -> None:
    for name, line in imports(module):
        top = name.split(".")[0]
        known = top in ("components", "pipelines", "kfp") or top in sys.stdlib_module_names
        assert known or name == "medmim.recipe.names", f"{module}:{line}: graphs import components, not {name}"


def test_imports_run_in_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module in FILES:
        found = {name for name, _ in imports(module) if name in FILES}
        for name in list(found):  # importing a.b.c runs a and a.b first; a package may import what is in it
            found |= {parent for parent in parents(name) if not module.startswith(f"{parent}.") and parent in FILES}
        graph[module] = found - {module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("a circle: " + " -> ".join(error.args[1]))


@pytest.mark.parametrize("module", list(FILES))
def test_nothing_unpickles_and_nothing_draws_its_own_bars(module: str) -> None:
    found = {name.split(".")[0] for name, _ in imports(module)}
    assert not found & {"pickle", "cloudpickle", "dill", "shelve", "tqdm"}
    called = {
        ast.unparse(node.func) for node in ast.walk(ast.parse(FILES[module].read_text())) if isinstance(node, ast.Call)
    }
    assert not called & {"torch.load", "joblib.load"}, "safetensors, Parquet and JSON only"
    assert "joblib" not in found or "from joblib import cpu_count" in FILES[module].read_text("utf-8")
    assert "print" not in called or module == "pipelines.compile", "say it with medmim.progress"


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_the_command_line_starts_without_heavy_libraries() -> None:
    commands = "medmim.cli.app, medmim_inference.cli"
    ended = run("-c", f"import sys, {commands}; print(*{{name.split('.')[0] for name in sys.modules}})")
    assert ended.returncode == 0, ended.stderr
    assert not set(ended.stdout.split()) & HEAVY


def test_help_names_every_command_group() -> None:
    ended = run("-m", "medmim.cli.main", "--help")
    assert ended.returncode == 0, ended.stderr
    for name in ("doctor", "recipe", "run", "data", "finetune", "bench", "ask", "registry", "serve"):
        assert f" {name} " in ended.stdout
    assert not ended.stderr


def test_help_is_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second on a quiet machine. Processor time, and twice of it: the clock depends on who else is working.

    With compiled modules, as from the second call on.
    """
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run("-m", "medmim.cli.main", "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 1
