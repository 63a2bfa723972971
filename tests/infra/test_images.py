"""The image as written down: what goes in, who runs it, which versions. Read from the files; no builder needed."""

import fnmatch
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from medmim.recipe import names

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "infra" / "images"
VLLM = IMAGES / "vllm"
INFERENCE = ROOT / "services" / "inference"
CONSOLE = ROOT / "services" / "console"
SERVICES = ROOT / "services" / "Dockerfile"
LOCKS = [
    ROOT / "requirements.txt",
    IMAGES / "cpu.txt",
    IMAGES / "cuda.txt",
    IMAGES / "build.txt",
    VLLM / "requirements.txt",
    CONSOLE / "requirements.txt",
]
both = pytest.mark.parametrize("name", ["cpu", "cuda"])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def locked(path: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """What a lock asks for: the distribution's name -> (version and marker, hashes)."""
    found = {}
    for line in path.read_text("utf-8").replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            asked, *hashes = line.split("--hash=")
            requirement = Requirement(asked.strip())
            pin = f"{requirement.specifier} {requirement.marker or ''}"
            found[canonicalize_name(requirement.name)] = (pin, frozenset(value.strip() for value in hashes))
    return found


def stages(path: Path = IMAGES / "Dockerfile") -> dict[str, list[tuple[str, str]]]:
    """A Dockerfile's stages: name -> its instructions, FROM first; what stands before the first is under ''."""
    found: dict[str, list[tuple[str, str]]] = {"": []}
    text = re.sub(r"^#.*\n", "", path.read_text("utf-8"), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found[rest.split(" AS ")[1]] = []
        if word:
            found[list(found)[-1]].append((word, rest.strip()))
    return found


def lineage(name: str = "cuda") -> list[tuple[str, str]]:
    """The instructions that make an image, from the base image on: those of the stages that it is FROM."""
    all_stages, chain = stages(), []
    while name in all_stages:
        chain = all_stages[name] + chain
        name = all_stages[name][0][1].split()[0]
    assert name == "${BASE_IMAGE}"
    return chain


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for word, rest in lineage() if word == "ENV" for pair in shlex.split(rest))


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_locked_distribution_has_one_version_and_a_hash(path: Path) -> None:
    found = locked(path)
    assert found
    for name, (pin, hashes) in found.items():
        assert re.match(r"==\S+ ", pin), f"{name}: {pin}"
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), name


def test_the_images_take_the_versions_and_hashes_of_the_whole_lock() -> None:
    whole, cpu, cuda = locked(LOCKS[0]), locked(LOCKS[1]), locked(LOCKS[2])
    assert {name: pin for name, pin in cuda.items() if whole.get(name) != pin} == {}, "make lock"
    assert {name: pin for name, pin in cpu.items() if cuda.get(name) != pin} == {}, "cuda would replace what cpu has"


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        (LOCKS[1], ("data", "ocr", "cluster", "steps")),
        (LOCKS[2], ("data", "ocr", "cluster", "steps", "finetune", "bench")),
    ],
    ids=("cpu", "cuda"),
)
def test_an_image_has_every_run_time_dependency_and_no_tool_of_development(lock: Path, extras: tuple[str, ...]) -> None:
    lines = [*PROJECT["dependencies"], *(line for one in extras for line in PROJECT["optional-dependencies"][one])]
    run_time = {canonicalize_name(Requirement(line).name) for line in lines}
    image = locked(lock)
    assert run_time <= image.keys(), f"make lock: {run_time - image.keys()}"
    assert not {"pytest", "mypy", "ruff", "moto", "hypothesis", "pre-commit", "uv"} & image.keys()


def test_only_the_image_that_trains_has_torch_and_what_a_gpu_runs() -> None:
    def of_gpus(lock: Path) -> set[str]:
        heavy = ("torch", "triton", "transformers", "deepspeed", "peft", "accelerate")
        return {name for name in locked(lock) if name.startswith(("nvidia-", "cuda-")) or name in heavy}

    assert of_gpus(LOCKS[1]) == set()
    assert {"torch", "triton", "nvidia-nccl-cu13"} <= of_gpus(LOCKS[2])


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_locks_name_no_index(path: Path) -> None:
    assert not re.findall(r"https?://|--(?:extra-)?index-url|--find-links", path.read_text("utf-8"))


def test_one_base_image_that_the_builder_names_and_no_floating_tag() -> None:
    given = dict(rest.split("=", 1) for word, rest in stages()[""] if word == "ARG")
    assert list(given) == ["BASE_IMAGE"]
    assert re.search(r":[\w.-]+$", given["BASE_IMAGE"]), "a base without a tag is `latest`"
    froms = [rest.split()[0] for name, body in stages().items() if name for _, rest in body[:1]]
    assert set(froms) <= {"${BASE_IMAGE}", *stages()}
    assert not re.search(r":latest\b", (IMAGES / "Dockerfile").read_text("utf-8"))


@both
def test_an_image_runs_as_a_user_by_number(name: str) -> None:
    users = [rest for word, rest in lineage(name) if word == "USER"]
    assert users[-1:] == [f"{names.USER}:{names.USER}"], "runAsNonRoot wants a number: the kubelet cannot check a name"
    made = [rest for word, rest in lineage(name) if word == "RUN" and f"useradd --uid {names.USER}" in rest]
    assert made and f"--home-dir {names.HOME} " in made[0]


@both
def test_an_image_gets_the_environment_alone_from_the_stages_that_build(name: str) -> None:
    copies = [shlex.split(rest) for word, rest in lineage(name) if word in {"COPY", "ADD"}]
    assert copies
    assert {tuple(copy[1:]) for copy in copies} == {("/opt/medmim", "/opt/medmim"), ("/layer", "/opt/medmim")}
    assert all(copy[0].startswith("--from=") for copy in copies)
    run = " ".join(rest for word, rest in lineage(name) if word == "RUN")
    assert not re.search(r"\b(gcc|g\+\+|build-essential|python3-dev|pip|uv|curl|git)\b", run)


def test_what_is_installed_is_checked_against_hashes() -> None:
    installs = [
        command
        for body in stages().values()
        for word, rest in body
        if word == "RUN"
        for command in re.split(r"&&|\|\||;", rest)
        if re.search(r"\bpip install\b", command)
    ]
    assert len(installs) == 4
    for command in installs:
        assert "--require-hashes" in command or {"--no-index", "--no-deps"} <= set(command.split()), command


def test_code_is_compiled_where_it_is_built_and_never_where_it_runs() -> None:
    build = dict(pair.split("=", 1) for word, rest in stages()["tools"] if word == "ENV" for pair in shlex.split(rest))
    assert build["UV_COMPILE_BYTECODE"] == "1"
    assert build["PYC_INVALIDATION_MODE"] == "UNCHECKED_HASH", "layers change times, so a compiled file must not ask"
    assert environment()["PYTHONDONTWRITEBYTECODE"] == "1"


def test_the_environment_serves_kubeflow_ray_and_a_read_only_root() -> None:
    env = environment()
    path = env["PATH"].split(":")
    assert path[0] == "/opt/medmim/bin"
    assert {"/bin", "/usr/bin", "/usr/sbin"} <= set(path)
    assert (env["HOME"], env["MEDMIM_HOME"]) == ("/home/medmim", "/home/medmim/.medmim")
    assert (env["HF_HUB_OFFLINE"], env["RAY_USAGE_STATS_ENABLED"]) == ("1", "0"), "nothing is fetched or sent"
    assert not [word for word, _ in lineage() if word == "ENTRYPOINT"], "KFP and KubeRay give the whole command"
    login = next(rest for word, rest in lineage() if "/etc/profile.d/" in rest)
    assert "/opt/medmim/bin:" in login, "KubeRay's login shell loses PATH otherwise"


def test_labels_say_what_it_is_and_of_which_commit(tmp_path: Path) -> None:
    builder = tmp_path / "docker"
    builder.write_text(f'#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done >"{tmp_path}/$1"\necho 1\n')
    builder.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    asked = ["sh", str(IMAGES / "build.sh"), "registry.example:5000/medmim-cuda:dev", "--target", "cuda"]
    said = subprocess.run(asked, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^registry.example:5000/medmim-cuda:dev: .* GB, built in \d+ s by docker$", said, re.MULTILINE)
    words = (tmp_path / "build").read_text().split("\0")
    given = [word for flag, word in zip(words, words[1:], strict=False) if flag == "--label"]
    labels = dict(pair.removeprefix("org.opencontainers.image.").split("=", 1) for pair in given)
    assert labels["title"] == "medmim-cuda" and "cuda" in words
    assert {key: labels[key] for key in ("description", "version", "licenses")} == {
        "description": PROJECT["description"], "version": PROJECT["version"], "licenses": PROJECT["license"],
    }  # fmt: skip
    assert {"revision", "created"} <= labels.keys()


def test_nothing_but_the_sources_reaches_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "refuse first, so that a new folder of data stays out by itself"
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    builders = [stages()[name] for name in ("tools", "libraries", "cuda-libraries", "wheel")]
    builders.append(stages(SERVICES)["wheel"])
    copied = [shlex.split(rest)[:-1] for body in builders for word, rest in body if word == "COPY"]
    wanted = {source for sources in copied for source in sources} - {"services/${SERVICE}"}
    wanted |= {f"services/{service.name}" for service in (INFERENCE, CONSOLE)}
    assert wanted
    for source in wanted:
        assert (ROOT / source).exists(), source
        within = [rule for rule in allowed if fnmatch.fnmatch(source, rule) or source.startswith(f"{rule}/")]
        assert within, f"{source} is not in .dockerignore"
    for rule in allowed:
        assert any(fnmatch.fnmatch(source, rule) for source in wanted), f"{rule}: no stage copies it"


def test_the_image_with_vllm_has_the_version_that_is_tested_here_and_says_where_it_is() -> None:
    tested = (ROOT / "tests" / "vllm" / "requirements.txt").read_text("utf-8").split("==")[1].strip()
    assert locked(VLLM / "requirements.txt")["vllm"][0].split()[0] == f"=={tested}"
    text = (VLLM / "Dockerfile").read_text("utf-8")
    assert re.search(r"^ENV MEDMIM_VLLM_PYTHON=/opt/vllm/bin/python$", text, re.MULTILINE)
    last = text.rpartition("\nFROM ")[2]
    assert "COPY --from=libraries /opt/vllm /opt/vllm" in last and "USER 10001:10001" in last
    assert "--require-hashes -r /src/requirements.txt" in text and "/src/requirements.txt" in text


def test_a_services_image_is_medmims_and_the_services_layer_alone() -> None:
    found = stages(SERVICES)
    last = found["service"]
    assert last[0] == ("FROM", "${MEDMIM} AS service")
    assert [rest for word, rest in last if word in ("COPY", "ADD")] == ["--from=wheel /layer /opt/medmim"]
    assert not [rest for word, rest in last if word in ("USER", "ENV")], "of medmim's image: its user, read-only root"
    installs = [
        part for word, rest in found["wheel"] if word == "RUN" for part in rest.split("&&") if "install" in part
    ]
    assert len(installs) == 3
    for command in installs:
        assert "--require-hashes" in command or {"--no-index", "--no-deps"} <= set(command.split()), command


@pytest.mark.parametrize(("service", "lock", "more"), [(INFERENCE, LOCKS[2], ()), (CONSOLE, LOCKS[1], LOCKS[5:])])
def test_a_services_image_has_each_library_of_the_service(service: Path, lock: Path, more: tuple[Path, ...]) -> None:
    own = tomllib.loads((service / "pyproject.toml").read_text("utf-8"))["project"]
    image = locked(lock)
    for own_lock in more:
        added = locked(own_lock)
        wrong = [name for name in added.keys() & image.keys() if added[name][0].split()[0] != image[name][0].split()[0]]
        assert not wrong, f"{own_lock} would change {wrong} of medmim's image"
        image |= added
    for line in own["dependencies"]:
        wanted = Requirement(line)
        if canonicalize_name(wanted.name) == PROJECT["name"]:
            assert wanted.specifier.contains(PROJECT["version"])
            continue
        pin = image[canonicalize_name(wanted.name)][0].split()[0].removeprefix("==")
        assert wanted.specifier.contains(pin), f"{line}: the image has {pin}"
