"""The admission test passes for each class of the zoo, and fails for each way in which answers would be wrong."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medmim.lvlm.zoo import admission, entry
from medmim.lvlm.zoo.adapter import Row, images_of, left_padded
from medmim.lvlm.zoo.model import Model


def failed(model: Model, *names: str) -> set[str]:
    return {found.name for found in admission.examine(model, names) if not found.passed}


def test_a_class_of_the_zoo_is_admitted(model: Model) -> None:
    found = admission.examine(model)
    assert [one.name for one in found] == ["batch", "blind", "none", "order", "tokens", "round trip"]
    assert [one for one in found if not one.passed] == []


@pytest.mark.parametrize("family", ["mantis", "llava-med"])
def test_our_families_are_admitted_in_their_own_format(folders: dict[str, Path], family: str) -> None:
    report = admission.check(folders[family], device="cpu")
    # a random tower whose weights nobody has spread: another order moves its logits little
    assert {one.name for one in report.checks if not one.passed} <= {"order"}
    assert report.model_type == "llava" and len(report.template) == 64


def test_mllama_is_not_admitted(model_of: Callable[[str], Model]) -> None:
    """Consecutive images are a set to it, and what a row without images gives depends on its neighbours."""
    found = {one.name: one for one in admission.examine(model_of("mllama"))}
    assert {name for name, one in found.items() if not one.passed} == {"blind", "order", "tokens"}
    assert "e-0" in found["order"].detail  # no difference but that of rounding
    assert entry.adapter_of("mllama") is None


def with_batch(model: Model, batch: Callable[[Any, Sequence[Row]], Any]) -> Model:
    return replace(model, adapter=replace(model.adapter, batch=batch))


def test_a_batch_padded_on_the_right_is_not_admitted(model_of: Callable[[str], Model]) -> None:
    def padded(model: Any, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        longest = max(map(len, rows))
        return model_of("qwen2_5_vl").adapter.batch(model, rows) | {
            name: torch.stack(
                [
                    torch.nn.functional.pad(row.tokens[name], (0, longest - len(row)), value=0)  # 0 is <pad>, too
                    for row in rows
                ]
            )
            for name in rows[0].tokens
        }

    assert failed(with_batch(model_of("qwen2_5_vl"), padded), "batch", "blind", "order") == {"batch", "blind"}


def test_images_in_the_order_of_another_row_are_not_admitted(model_of: Callable[[str], Model]) -> None:
    def swapped(model: Any, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        images = {name: torch.cat(parts[::-1]) for name, parts in images_of(rows).items()}
        return {**left_padded(model, rows), **images}

    assert failed(with_batch(model_of("llava"), swapped), "batch")


def test_token_types_that_are_lost_in_a_batch_are_not_admitted(model_of: Callable[[str], Model]) -> None:
    """Qwen2.5-VL takes one-dimensional positions without them, and says nothing."""
    plain = model_of("qwen2_5_vl").adapter.batch

    def without(model: Any, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        made = plain(model, rows)
        return {name: value for name, value in made.items() if len(rows) == 1 or name != "mm_token_type_ids"}

    assert failed(with_batch(model_of("qwen2_5_vl"), without), "batch")


def test_images_that_are_not_looked_at_are_not_admitted(folder_of: Callable[[str], Path]) -> None:
    """A new Gemma 3 is blind: the weight between tower and decoder starts at zero."""
    from medmim.lvlm.zoo import model as zoo

    blind = zoo.load(folder_of("gemma3"), "cpu")
    with torch.no_grad():
        next(w for name, w in blind.model.named_parameters() if name.endswith("mm_input_projection_weight")).zero_()
    assert failed(blind, "batch", "order", "tokens") == {"order"}


def test_tokens_that_are_counted_wrong_are_not_admitted(model_of: Callable[[str], Model]) -> None:
    model = model_of("llava_onevision")
    one_by_one = model.adapter.features

    def as_single(processor: Any, config: Any, sizes: Sequence[tuple[int, int]], used: Any) -> list[int]:
        assert one_by_one is not None
        return [one_by_one(processor, config, [size], used)[0] for size in sizes]  # several have no crops

    assert failed(replace(model, adapter=replace(model.adapter, features=as_single)), "none", "tokens") == {"tokens"}


def test_an_error_of_the_model_is_a_check_that_has_not_passed(model_of: Callable[[str], Model]) -> None:
    def raising(model: Any, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        if len(rows) > 1:
            raise ValueError("Image features and image tokens do not match")
        return model.adapter.batch(model, rows)

    model = model_of("llava")
    broken = with_batch(model, lambda _, rows: raising(model, rows))
    found = {one.name: one for one in admission.examine(broken, ("batch", "tokens"))}
    assert not found["batch"].passed and "ValueError: Image features" in found["batch"].detail
    assert found["tokens"].passed


def test_another_chat_template_than_the_recorded_one_is_found(folder_of: Callable[[str], Path]) -> None:
    qwen = entry.find("qwen2.5-vl-7b")
    report = admission.check(folder_of("qwen2_5_vl"), qwen, "cpu")
    assert [one.name for one in report.checks if not one.passed] == []
    for recorded, passed in ((None, True), (report.template, True), ("0" * 64, False)):
        known = qwen.model_copy(update={"template": recorded})
        assert admission.of_template(known, report.template).passed == passed
