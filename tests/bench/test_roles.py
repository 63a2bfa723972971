"""Models of one benchmark have names that tell them apart, whatever they are referred to by."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medmim.bench import roles
from medmim.errors import UserError

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("tiny-mantis", "tiny-mantis"),
        ("qwen2.5-vl-7b", "qwen2.5-vl-7b"),
        ("/srv/models/Lingshu-7B/", "Lingshu-7B"),
        ("./my model", "my-model"),
        ("~/tuned", "tuned"),
        ("models:/x@champion", "x@champion"),
        ("models:/med-mantis/3", "med-mantis-v3"),
        ("openai:http://127.0.0.1:8000/v1#my-model", "my-model"),
        ("openai:http://127.0.0.1:8000/v1?a=b#Qwen/Qwen2.5-VL-7B", "Qwen2.5-VL-7B"),
        (f"s3://bucket/store/model/{DIGEST}", DIGEST[:12]),
        (f"/home/store/model/{DIGEST}", DIGEST[:12]),
        ("imported:mantis", "mantis"),
        ("/", "model-2"),  # `model` is the other one
    ],
)
def test_a_reference_is_named_after_what_it_ends_in(ref, name):
    assert list(roles.named(["model=tiny-llava-med", ref]).items()) == [("model", "tiny-llava-med"), (name, ref)]


def test_one_model_alone_keeps_its_name():
    assert roles.named(["tiny-mantis"]) == {"model": "tiny-mantis"}
    assert roles.named(["base=tiny-mantis"]) == {"base": "tiny-mantis"}


refs = st.lists(
    st.one_of(
        st.sampled_from(["a/x", "b/x", "x", "c=x", "x-2=y", "data", "models:/x@champion", "openai:http://h#o/x", "/"]),
        st.text("ab/=:# é", min_size=1, max_size=90),
    ),
    min_size=2,
    max_size=12,
)  # fmt: skip


@given(refs)
@example(["a/x", "x", "x-2=y"])
def test_every_model_has_a_name_of_its_own_and_the_order_stays(given):
    try:
        found = roles.named(given)
    except UserError:
        own = [text.partition("=") for text in given if "=" in text]
        assert own  # only what was named by hand can be refused
        return
    assert len(found) == len(given)
    assert all(text in (ref, f"{name}={ref}") for text, (name, ref) in zip(given, found.items(), strict=True))
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,59}", name) and name != "data" for name in found)


def test_a_folder_with_an_equals_sign_is_a_reference(tmp_path, monkeypatch):
    (tmp_path / "lr=3").mkdir()
    monkeypatch.chdir(tmp_path)
    assert list(roles.named(["x", "lr=3", "y=lr=3"]).items()) == [("x", "x"), ("lr-3", "lr=3"), ("y", "lr=3")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["my model=x"], "'my model' is no name"),
        (["=x", "a#b=y"], "'a#b' is no name"),
        (["a=x", "a=y"], "'a' is given twice"),
        (["data=x"], "'data' is taken"),
        ([f"{'a' * 61}=x"], "is no name: up to 60"),
        (["a="], "names no model"),
    ],
)
def test_names_that_cannot_be_are_refused(given, message):
    with pytest.raises(UserError, match="--model") as caught:
        roles.named(given)
    assert message in str(caught.value)


def test_a_model_is_not_compared_with_itself():
    roles.refuse_equal({"a": "1", "b": "2"})
    with pytest.raises(UserError, match="a and c are the same model, 1; b and d are") as caught:
        roles.refuse_equal({"a": "1", "b": "2", "c": "1", "d": "2"})
    assert caught.value.fix
