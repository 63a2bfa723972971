"""A night compares what models write."""

from pathlib import Path

import pytest

from medmim.errors import UserError
from medmim.nightly import rebench
from medmim.recipe import loading
from medmim.run.workspace import workspace


def test_a_night_without_generated_answers_is_refused_before_a_model_is_asked(tmp_path: Path) -> None:
    recipe = loading.load("demo", ["bench.protocol=likelihood"])
    with pytest.raises(UserError, match="bench.protocol is likelihood") as caught:
        rebench.run(recipe, workspace(tmp_path, recipe), "no data set", {})
    assert "generate or both" in caught.value.fix
