"""The figures of a benchmark."""

from hypothesis import example, given
from hypothesis import strategies as st

from medmim.bench.page import drawn


@given(st.lists(st.text("ab", min_size=1, max_size=60), min_size=1, max_size=12, unique=True))
@example(["a" * 30, "a" * 31, "a" * 32])
def test_names_in_a_figure_are_short_and_each_one_s_own(names) -> None:
    shown = drawn.names(names)
    assert list(shown) == names and len(set(shown.values())) == len(names)
    assert all(len(short) <= 28 and (short == name or len(name) > 23) for name, short in shown.items())
