"""The syntax of paths that name one picture of a file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim.data.sources.fragments import Fragment, format_path, parse


@pytest.mark.parametrize(
    ("path", "file", "kind", "index"),
    [
        (
            "Imaging/Patient-001/week-000-1/CT1.nii.gz#coronal=87",
            "Imaging/Patient-001/week-000-1/CT1.nii.gz",
            "coronal",
            87,
        ),
        ("x.dcm#frame=3", "x.dcm", "frame", 3),
        ("x.dcm#frame=0", "x.dcm", "frame", 0),
        ("a#b/c d#2.nii#axial=10", "a#b/c d#2.nii", "axial", 10),
        ("x.nii#sagittal=1#axial=2", "x.nii#sagittal=1", "axial", 2),
    ],
)
def test_a_path_with_a_fragment_names_file_and_picture(path: str, file: str, kind: str, index: int) -> None:
    assert parse(path) == (file, Fragment(kind, index))
    assert format_path(file, Fragment(kind, index)) == path


@pytest.mark.parametrize(
    "path",
    [
        "x.dcm", "", "#axial=1", "scan#2.png", "x.dcm#frame=", "x.dcm#frame=03", "x.dcm#frame=-1", "x.dcm#frame=1.5",
        "x.dcm#frame=1 ", "x.dcm#frame=\u0661", "x.dcm#Frame=1", "x.dcm#plane=1", "x.dcm#frame=1\n",
        "x.dcm#frame=99999999",
    ],
)  # fmt: skip
def test_anything_else_is_the_name_of_a_whole_file(path: str) -> None:
    assert parse(path) == (path, None)


@given(
    st.text(),
    st.none()
    | st.builds(Fragment, st.sampled_from(["frame", "axial", "coronal", "sagittal", "week"]), st.integers(-5, 10**8)),
)
def test_what_is_formatted_is_parsed_back_or_refused(file: str, fragment: Fragment | None) -> None:
    try:
        path = format_path(file, fragment)
    except ValueError:
        return
    assert parse(path) == (file, fragment)


def test_a_path_that_would_be_read_otherwise_is_refused() -> None:
    with pytest.raises(ValueError, match="frame=1"):
        format_path("x.dcm#frame=1", None)
    with pytest.raises(ValueError, match="week=1"):
        format_path("x.dcm", Fragment("week", 1))
