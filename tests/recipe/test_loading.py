"""A recipe is right, or every one of its problems is told at once."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medmim.errors import UserError
from medmim.recipe import loading
from medmim.recipe.schema import Recipe
from medmim.recipe.yaml_text import parse_yaml

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


def test_all_problems_are_told_at_once_each_with_its_key(tmp_path: Path) -> None:
    text = (
        "name: Mine!\ndata:\n  sauce: phantom\n  patients: -3\n  seed: '1'\n  dev_fraction: .inf\n"
        "finetune:\n  batchsize: 2\n  packing: 1\nlr: 1\nbench:\n  probes: [blind, blond]\n"
    )
    with pytest.raises(UserError) as caught:
        loading.load(write(tmp_path, text))
    told = {problem.partition(":")[0]: problem for problem in caught.value.problems}
    assert set(told) == {
        "name", "data.source", "data.sauce", "data.patients", "data.seed", "data.dev_fraction",
        "finetune.batchsize", "finetune.packing", "lr", "bench.probes.1",
    }  # fmt: skip
    assert told["data.sauce"].endswith("unknown key; did you mean 'data.source'?")
    assert told["finetune.batchsize"].endswith("did you mean 'finetune.batch_size'?")
    assert told["lr"].endswith("did you mean 'finetune.lr'?")
    assert "'blond'" in told["bench.probes.1"] and caught.value.exit_code == 2


def test_an_unknown_key_that_is_like_none_gets_no_guess(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        loading.load(write(tmp_path, MINIMAL + "finetune: {qqqqqq: 1}\nregister_: {model: x}\n"))
    assert set(caught.value.problems) == {
        "finetune.qqqqqq: unknown key",
        "register_: unknown key; did you mean 'register'?",
    }


@pytest.mark.parametrize(("text", "value"), [("1e-5", 1e-5), ("2E+1", 20.0), (".5e-3", 5e-4), ("3", 3.0), ("0.1", 0.1)])
def test_numbers_are_read_as_people_write_them(tmp_path: Path, text: str, value: float) -> None:
    assert loading.load(write(tmp_path, MINIMAL + f"finetune: {{lr: {text}}}\n")).finetune.lr == value
    assert loading.load("demo", [f"finetune.lr={text}"]).finetune.lr == value


def test_a_folder_named_like_a_date_stays_text(tmp_path: Path) -> None:
    assert (
        loading.load(write(tmp_path, "name: mine\ndata: {source: phantom, root: 2024-01-01}\n")).data.root
        == "2024-01-01"
    )
    assert loading.load("demo", ["data.root=2024-13-99"]).data.root == "2024-13-99"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nname: b\n", "line 2, column 1\nreason: the key 'name' stands twice, first in line 1"),
        ("data:\n  seed: 1\n  source: phantom\n  seed: 2\n", "'seed' stands twice, first in line 2"),
        ("name: [1\n", "is not valid YAML at line 2"),
        ("a: b: c\n", "is not valid YAML at line 1"),
        ("- a\n- b\n", "is not a mapping"),
        ("just words\n", "is not a mapping"),
        ("", "is not a mapping"),
        ("a: !!python/object/apply:os.system [ls]\n", "is not valid YAML"),
        ("a: !!int x\n", "is not valid YAML"),
        ("? [a, b]\n: 1\n", "is not valid YAML"),
        ("name: mine\x00\n", "is not valid YAML"),
        ("a: " + "[" * 5000, "is not valid YAML"),
        (b"name: m\xfcller\n", "is not a text file in UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00", "is not a text file in UTF-8"),
    ],
)
def test_what_is_no_yaml_mapping_is_one_clear_error(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(UserError) as caught:
        loading.load(write(tmp_path, text))
    assert said in str(caught.value) and "mine.yaml" in caught.value.fact


@pytest.mark.parametrize(
    "text", ["a: &a [*a]\n", "name: !!set {a}\n", "name: !!binary aGk=\n", "name: !!timestamp 2024-01-01\n"]
)
def test_yaml_that_json_lacks_is_one_clear_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="mine.yaml"):
        loading.load(write(tmp_path, text))


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    assert loading.load(write(tmp_path, b"\xef\xbb\xbf" + MINIMAL.encode())).name == "mine"


@pytest.mark.parametrize("ref", ["dmo", "nothing.yaml", "/", "x" * 5000, "a\0b", ""])
def test_what_is_no_recipe_is_told_with_those_there_are(ref: str) -> None:
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


@pytest.mark.parametrize(
    "item", ["data.seed", "=1", "data.=1", ".seed=1", "name.first=x", "data.seed=x", "data.nope=1", "data=1"]
)
def test_a_wrong_override_is_bad_input(item: str) -> None:
    with pytest.raises(UserError) as caught:
        loading.load("demo", [item])
    assert caught.value.exit_code == 2


def test_splits_that_leave_no_patients_are_refused() -> None:
    with pytest.raises(UserError, match="leave no patients"):
        loading.load("demo", ["data.dev_fraction=0.5", "data.test_fraction=0.5"])


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


@given(st.text() | st.text("[]{}:,-?&*!|>'\"%@`# \n\tab1.=<~"))
@example("!!int ''")
@example("!!timestamp x")
@example("? \n")
@example("<<: 1")
@example("=")
@example("%YAML 9.9\n---\na")
def test_any_text_is_a_recipe_or_a_user_error(text: str) -> None:
    with suppress(UserError):
        loading.validate(parse_yaml(text, "it"), "it")


@given(st.text())
@example("[]")
@example("NaN")
@example("[" * 100_000)
def test_any_text_handed_to_a_step_is_a_recipe_or_a_user_error(text: str) -> None:
    with pytest.raises(UserError):
        loading.from_dump(text)


def test_dump_and_back_is_the_same_recipe() -> None:
    loaded = loading.load("demo", ["finetune.lr=3e-4", "register.model=a.b-c"])
    assert loading.from_dump(loaded.dump()) == loaded
    assert json.loads(loaded.dump())["register"]["model"] == "a.b-c"


def test_a_loaded_recipe_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        loading.load("demo").data.seed = 2  # type: ignore[misc]


def test_every_key_has_a_meaning_and_a_type_in_words() -> None:
    rows = loading.describe()
    assert all(meaning and "[" not in kind and "Annotated" not in kind for _, kind, _, meaning in rows)
    assert dict((key, kind) for key, kind, *_ in rows)["finetune.steps"] == "int or null"
    assert loading.describe("finetune.lr")[0][2] == "1e-05"
    assert {key.partition(".")[0] for key, *_ in loading.describe("bench")} == {"bench"}
    with pytest.raises(UserError, match="no recipe key 'finetune.leer'"):
        loading.describe("finetune.leer")
