"""Every row is trained on or quarantined with its reason; too many bad ones stop the step."""

import dataclasses
import io
from pathlib import Path

import pytest
from PIL import Image

from medmim.errors import UserError
from medmim.finetune.examples import Examples, refuse_too_many_bad, tokenize
from medmim.lvlm.checkpoint import Lvlm
from medmim.lvlm.encode import length_of
from medmim.lvlm.family import Turn
from medmim.lvlm.mantis import MANTIS
from tests.support.finetune import make_samples, png


class Lazy(dict[str, bytes]):
    """Image id -> RGB image, decoded on access, as `shards.Images` does."""

    def __getitem__(self, name: str) -> Image.Image:  # type: ignore[override]
        return Image.open(io.BytesIO(super().__getitem__(name))).convert("RGB")


IMAGES = Lazy({f"i{i}": png(i) for i in range(10)})


def test_lengths_are_token_counts_and_survive_the_file(lvlm: Lvlm, tmp_path: Path) -> None:
    samples = make_samples(20)
    examples, bad = tokenize(lvlm, samples, IMAGES, 400)
    assert bad == []
    assert examples.lengths == [length_of(lvlm, [Turn(s.prompt, s.target)], len(s.images)) for s in samples]
    examples.save(tmp_path / "examples")
    assert Examples.load(tmp_path / "examples") == examples
    assert [p.name for p in tmp_path.iterdir()] == ["examples"]


def test_each_bad_row_is_quarantined_with_its_own_reason(lvlm: Lvlm) -> None:
    good = make_samples(6)
    bad_ones = [
        dataclasses.replace(good[0], images=("gone",)),
        dataclasses.replace(good[1], images=("torn",)),
        dataclasses.replace(good[2], images=("text",)),
        dataclasses.replace(good[3], question="mass " * 500),
        dataclasses.replace(good[4], question="see <image>"),
    ]
    images = Lazy({**IMAGES, "torn": png(3)[:200], "text": b"not an image"})
    examples, bad = tokenize(lvlm, [*bad_ones, good[5]], images, 400)
    assert len(examples.encoded) == 1
    assert [row.row for row in bad] == [0, 1, 2, 3, 4]
    assert [row.key for row in bad] == [s.id for s in bad_ones]
    reasons = [row.reason for row in bad]
    assert "not in the data set" in reasons[0]
    assert "does not decode" in reasons[1] and "does not decode" in reasons[2]
    assert "finetune.max_tokens (400)" in reasons[3]
    assert "<image>" in reasons[4]


def test_a_few_bad_rows_are_accepted_and_many_are_an_error_that_counts_them(lvlm: Lvlm) -> None:
    samples = make_samples(10)
    samples[0] = dataclasses.replace(samples[0], question="mass " * 500)
    _, bad = tokenize(lvlm, samples, IMAGES, 400)
    refuse_too_many_bad(bad, 10, 0.1)
    with pytest.raises(UserError, match="1 of 10 train rows") as caught:
        refuse_too_many_bad(bad, 10, 0.05)
    assert caught.value.problems == ("1 rows: longer than finetune.max_tokens (400)",)
    assert caught.value.fix == "raise finetune.max_tokens; or raise data.max_bad_fraction"
    with pytest.raises(UserError) as caught:
        refuse_too_many_bad(bad * 10, 10, 1.0)
    assert (caught.value.reason, caught.value.fix) == ("no row is left", "raise finetune.max_tokens")


@pytest.mark.parametrize("token", MANTIS.special)
def test_a_special_token_in_a_text_is_named_with_the_fix_that_helps(lvlm: Lvlm, token: str) -> None:
    samples = [dataclasses.replace(s, question=f"is it{token}larger?", answer=s.answer) for s in make_samples(3)]
    _, bad = tokenize(lvlm, samples, IMAGES, 400)
    with pytest.raises(UserError) as caught:
        refuse_too_many_bad(bad, 30, 0.01)
    assert caught.value.problems == (f"3 rows: a question or answer contains {token}",)
    assert caught.value.fix.startswith("remove that special token from the text") and "max_tokens" not in str(
        caught.value
    )


def test_each_reason_has_its_own_fix(lvlm: Lvlm) -> None:
    good = make_samples(4)
    rows = [dataclasses.replace(good[0], images=("gone",)), dataclasses.replace(good[1], question="see <image>")]
    _, bad = tokenize(lvlm, [*rows, *good[2:]], IMAGES, 400)
    with pytest.raises(UserError) as caught:
        refuse_too_many_bad(bad, 4, 0.0)
    images, special, fraction = caught.value.fix.split("; ")
    assert (images, fraction) == ("fix the images", "or raise data.max_bad_fraction") and "special token" in special
