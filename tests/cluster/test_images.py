"""Which image runs what, where several places name some."""

import pytest

from medmim.cluster import images


@pytest.mark.parametrize(
    ("places", "found"),
    [
        ([("a", "b"), ("c", "d")], ("a", "b")),
        ([("a", None), ("c", "d")], ("a", "a")),  # d may be of another version than a
        ([(None, "b"), ("c", "d")], ("c", "b")),
        ([(None, None), ("c", "d")], ("c", "d")),
        ([("", ""), ("c", "")], ("c", "c")),
        ([], ("", "")),
    ],
)
def test_who_names_the_image_names_the_one_with_torch_as_well(
    places: list[images.Named], found: tuple[str, str]
) -> None:
    assert images.chosen(*places) == found


def test_a_setting_of_the_cluster_comes_after_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMIM_IMAGE", "here")
    monkeypatch.delenv("MEDMIM_CUDA_IMAGE", raising=False)
    assert images.chosen((None, None), images.of_environment(), ("there", "there-cuda")) == ("here", "here")
