"""A recipe is right, or every one of its problems is reported at once."""

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medmim.errors import UserError
from medmim.lvlm.zoo.entry import entries
from medmim.recipe import loading
from medmim.recipe.schema import Recipe

MINIMAL = "name: mine\ndata: {source: phantom}\n"
KEYS = st.sampled_from([key for key, *_ in loading.describe()] + ["data", "finetune", "x", "data.x", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def write(folder: Path, text: str | bytes) -> str:
    path = folder / "mine.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


@pytest.mark.parametrize("name", loading.shipped())
def test_every_shipped_recipe_is_right_and_says_what_it_is_for(name: str) -> None:
    assert loading.load(name).name == name
    assert len(loading.shipped()[name]) > 20


def test_all_problems_are_reported_at_once_each_with_its_key(tmp_path: Path) -> None:
    text = (
        "name: Mine!\ndata:\n  sauce: phantom\n  patients: -3\n  seed: '1'\n  dev_fraction: .inf\n"
        "finetune:\n  batchsize: 2\n  packing: 1\nlr: 1\nbench:\n  probes: [blind, blond]\n"
    )
    with pytest.raises(UserError) as caught:
        loading.load(write(tmp_path, text))
    problems = {problem.partition(":")[0]: problem for problem in caught.value.problems}
    assert set(problems) == {
        "name", "data.sources", "data.sauce", "data.patients", "data.seed", "data.dev_fraction",
        "finetune.batchsize", "finetune.packing", "lr", "bench.probes.1",
    }  # fmt: skip
    assert problems["data.sauce"].endswith("unknown key; did you mean 'data.source'?")
    assert problems["finetune.batchsize"].endswith("did you mean 'finetune.batch_size'?")
    assert problems["lr"].endswith("did you mean 'finetune.lr'?")
    assert "'blond'" in problems["bench.probes.1"] and caught.value.exit_code == 2


def test_an_unknown_key_that_is_like_none_gets_no_guess(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        loading.load(write(tmp_path, MINIMAL + "finetune: {qqqqqq: 1}\nregister_: {model: x}\n"))
    assert set(caught.value.problems) == {
        "finetune.qqqqqq: unknown key",
        "register_: unknown key; did you mean 'register'?",
    }


def test_a_key_of_an_earlier_version_is_said_to_be_gone(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        loading.load(write(tmp_path, MINIMAL + "bench: {resamples: 2000}\n"))
    (problem,) = caught.value.problems
    assert problem.startswith("bench.resamples: no longer a key") and "delete this line" in problem


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("tolerations: [{key: gpu}]", "runPods.tolerations"),
        ("queue: team-a", "runPods.queue"),
        ("pull_secrets: [registry]", "imagePullSecrets"),
        ("s3_secret: null", "accounts.ray.annotations"),
        ("ca_config_map: ours", "store.certificate"),
    ],
)
def test_a_key_that_the_cluster_says_now_names_its_new_place(tmp_path: Path, line: str, place: str) -> None:
    with pytest.raises(UserError) as raised:
        loading.load(write(tmp_path, MINIMAL + f"platform: {{pods: {{{line}}}}}\n"))
    (problem,) = raised.value.problems
    assert problem.startswith(f"platform.pods.{line.partition(':')[0]}: no longer a key") and place in problem


def test_a_recipe_that_an_earlier_version_wrote_is_read_without_what_the_cluster_says_now() -> None:
    text = loading.load("demo").dump()
    values = json.loads(text)
    values["platform"]["pods"] |= {"queue": None, "tolerations": [], "s3_secret": "medmim-s3", "pull_policy": "Never"}
    assert loading.from_dump(json.dumps(values)).dump() == text


@pytest.mark.parametrize(
    "text", ["a: &a [*a]\n", "name: !!set {a}\n", "name: !!binary aGk=\n", "name: !!timestamp 2024-01-01\n"]
)
def test_yaml_that_json_lacks_is_one_clear_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="mine.yaml"):
        loading.load(write(tmp_path, text))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
OTHER = {
    "cp1252": (b"name: m\xfcller\n", r"WINDOWS-1252 \('m\u00fcller' in line 1\)", "iconv -f WINDOWS-1252"),
    "UTF-16": (MINIMAL.encode("utf-16"), "UTF-16 text", "iconv -f UTF-16 "),
    "UTF-16 without a mark": (MINIMAL.encode("utf-16-le"), "UTF-16LE text", "iconv -f UTF-16LE"),
    "Git LFS": (POINTER, "a Git LFS pointer", "git lfs pull"),
    "DVC": (b"outs:\n- md5: 0123456789abcdef0123456789abcdef\n", "a DVC pointer", "dvc pull"),
    "sign-in page": (b"<!DOCTYPE html><title>Sign in</title>", "a web page", "access"),
    "gzip": (b"\x1f\x8b\x08\0....", "a gzip file", "gunzip"),
    "PNG": (b"\x89PNG\r\n\x1a\n\x00", "a PNG image", "right file"),
    "empty": (b"", r"empty \(0 bytes\)", "copy it again"),
    "refusal": (b"404: Not Found", "the error of a server", "access"),
}


@pytest.mark.parametrize("name", OTHER)
def test_a_file_that_is_no_recipe_is_named_with_its_fix(tmp_path: Path, name: str) -> None:
    data, words, fix = OTHER[name]
    with pytest.raises(UserError, match=rf"mine\.yaml is .*{words}.*, not a recipe in YAML") as caught:
        loading.load(write(tmp_path, data))
    assert fix in caught.value.fix and caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["cp1252", "UTF-16", "UTF-16 without a mark"])
def test_the_command_that_the_fix_names_makes_the_recipe_readable(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, OTHER[name][0])
    with pytest.raises(UserError) as caught:
        loading.load(path)
    subprocess.run(["sh", "-c", caught.value.fix.split("`")[1]], check=True)
    assert loading.read_text(path)[0].startswith("name: m")


def test_a_folder_is_no_recipe_and_the_files_in_it_are_offered(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder, not a recipe") as caught:
        loading.load(str(tmp_path))
    assert "demo" in caught.value.fix
    path = write(tmp_path, MINIMAL)
    with pytest.raises(UserError) as caught:
        loading.load(str(tmp_path))
    assert path in caught.value.fix and loading.load(path).name == "mine"


def test_a_recipe_may_come_through_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(MINIMAL,))
    writer.start()
    assert loading.load(str(tmp_path / "pipe")).name == "mine"
    writer.join()


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    assert loading.load(write(tmp_path, b"\xef\xbb\xbf" + MINIMAL.encode())).name == "mine"


@pytest.mark.parametrize("ref", ["dmo", "nothing.yaml", "x/y", "x" * 5000, "a\0b", ""])
def test_what_is_no_recipe_is_an_error_that_names_the_shipped_ones(ref: str) -> None:
    with pytest.raises(UserError, match="no recipe") as caught:
        loading.load(ref)
    assert "demo" in caught.value.fix


def test_a_name_that_is_nearly_right_is_offered() -> None:
    with pytest.raises(UserError) as caught:
        loading.load("dmeo")
    assert "did you mean 'demo'?" in caught.value.fix


def test_set_overrides_the_file_and_reaches_empty_sections(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "bench:\n")
    loaded = loading.load(path, ["bench.limit=5", "data.seed=7", "data.root=/a b/c", "platform.store=s3://b/p"])
    assert (loaded.bench.limit, loaded.data.seed, loaded.data.root) == (5, 7, "/a b/c")
    assert loaded.platform.store == "s3://b/p"
    assert loading.load("demo", ["bench.probes=[blind, grey]"]).bench.probes == ("blind", "grey")
    assert loading.load("demo", ["finetune.lr=3"]).finetune.lr == 3.0


@pytest.mark.parametrize(
    "item", ["data.seed", "=1", "data.=1", ".seed=1", "name.first=x", "data.seed=x", "data.nope=1", "data=1"]
)
def test_a_wrong_override_is_bad_input(item: str) -> None:
    with pytest.raises(UserError) as caught:
        loading.load("demo", [item])
    assert caught.value.exit_code == 2


def test_overrides_of_an_audit_reach_its_section() -> None:
    section = loading.audit_section({"max_text_only": 0.3}, ["audit.max_label=null", "audit.read_images=5"])
    assert (section.max_text_only, section.max_label, section.read_images) == (0.3, None, 5)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("data.seed=1", "no key of the section"),
        ("audit=1", "no key of the section"),
        ("audit.max_labels=1", "did you mean 'audit.max_label'"),
        ("audit.max_label=2", "audit.max_label: "),
    ],
)
def test_an_override_that_no_audit_reads_is_bad_input(item: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        loading.audit_section({}, [item])
    assert caught.value.exit_code == 2 and said in str(caught.value)


@given(JSON | st.dictionaries(st.sampled_from(list(Recipe.model_fields) + ["register"]), JSON))
def test_any_value_is_a_recipe_or_a_user_error(values: object) -> None:
    try:
        loading.validate(values, "it")  # type: ignore[arg-type]
    except UserError as error:
        assert error.problems and str(error)


@given(st.lists(st.tuples(KEYS, JSON), max_size=4))
def test_any_override_is_a_recipe_or_a_user_error(items: list[tuple[str, object]]) -> None:
    try:
        loaded = loading.load("demo", [f"{key}={json.dumps(value)}" for key, value in items])
    except UserError:
        return
    assert loading.from_dump(loaded.dump()) == loaded


@given(st.text())
@example("[]")
@example("NaN")
@example("[" * 100_000)
def test_any_text_passed_to_a_step_is_a_recipe_or_a_user_error(text: str) -> None:
    with pytest.raises(UserError):
        loading.from_dump(text)


@pytest.mark.parametrize(
    "text",
    ["a\\0b", "\\0", "\\ud83d", "x\\udfffy", "\\x00"],
)
@pytest.mark.parametrize("key", ["data.root", "platform.store", "finetune.base", "platform.tracking"])
def test_a_text_that_no_path_or_record_can_hold_is_refused_by_its_key(tmp_path: Path, key: str, text: str) -> None:
    section, name = key.split(".")
    data = {"data": {"source": "phantom"}}
    data.setdefault(section, {})[name] = "HERE"
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps({"name": "x", **data}).replace("HERE", text), "utf-8")
    with pytest.raises(UserError) as caught:
        loading.load(str(file))
    assert f"{key}: holds" in caught.value.problems[0] and str(caught.value).encode()


def test_every_key_has_a_meaning_and_a_type_in_words() -> None:
    rows = loading.describe()
    assert all(meaning and "[" not in kind and "Annotated" not in kind for _, kind, _, meaning in rows)
    assert dict((key, kind) for key, kind, *_ in rows)["finetune.steps"] == "int or null"
    assert loading.describe("finetune.lr")[0][2] == "1e-05"
    assert {key.partition(".")[0] for key, *_ in loading.describe("bench")} == {"bench"}
    with pytest.raises(UserError, match="no recipe key 'finetune.leer'"):
        loading.describe("finetune.leer")


@pytest.mark.parametrize("name", ["eight", "ten"])
def test_the_comparison_on_a_laptop_asks_stand_ins_of_the_same_models_in_the_same_way(name: str) -> None:
    whole, tiny = loading.load(name), loading.load(f"{name}-tiny")
    assert [f"tiny-{role}" for role in whole.bench.models] == list(tiny.bench.models)
    for role, ref in whole.bench.models.items():
        stand_in = tiny.bench.models[f"tiny-{role}"]
        assert ref == f"zoo:{role}" and stand_in == f"zoo:tiny-{role}" or ref == f"models:/{role}@champion"
    same = {"pipeline": ..., "bench": {"tasks", "probes", "protocol", "split"}}
    assert whole.model_dump(include=same) == tiny.model_dump(include=same)


def test_ten_compares_all_of_the_zoo_and_each_with_its_sibling() -> None:
    of_zoo = {entry.name: entry for entry in entries()}
    ten, eight = (loading.load(name).bench.models for name in ("ten", "eight"))
    assert set(of_zoo) == {role for role, ref in ten.items() if ref.startswith("zoo:")}
    assert {role: ref for role, ref in ten.items() if role in eight} == eight
    assert len(eight) == 8 and all(of_zoo[role].sibling in eight for role in eight if role in of_zoo)
    for name in ("med-mantis", "mim-llava-med"):  # as the recipes that tune them register them
        assert eight[name] == f"models:/{loading.load(name).register_.model}@champion"
