"""The gate's policy: a shipped name or a YAML file, checked with all its mistakes at once."""

from importlib import resources
from typing import Literal

from pydantic import Field, field_validator

from medmim import hints
from medmim.errors import UserError
from medmim.recipe.keys import Positive, Section, checked
from medmim.recipe.schema import Fraction
from medmim.recipe.yaml_text import parse_yaml
from medmim.sample import ABILITIES

_GROUPS = ("held_in", "held_out", *(f"ability:{name}" for name in ABILITIES))
_NAMED = ("source:", "task:")  # with the name of any data set, or of a task that is no group of every benchmark


class Policy(Section):
    """What a candidate must show; see medmim/shipped/policies/default.yaml for the meaning of each key."""

    metric: Literal["accuracy", "likelihood", "token_f1", "bleu", "rouge_l"] = "accuracy"
    min_patients: Positive = Field(20, ge=20)  # under 20 there is no interval
    min_gain: dict[str, float] = Field(min_length=1)
    max_regression: dict[str, Fraction] = {}
    regression_by: Literal["point", "interval", "noninferiority"] = "point"
    blind_gap: dict[str, float] = {}
    min_swap: dict[str, Fraction] = {}
    max_unparsed: Fraction = 1.0
    max_errors: Fraction = 1.0
    require_comparable: bool = True
    terms: tuple[Literal["redistribute_data", "release_weights", "commercial_use", "outside_api", "serve"], ...] = ()

    @field_validator("min_gain", "max_regression", "blind_gap", "min_swap")
    @classmethod
    def _names_groups(cls, limits: dict[str, float]) -> dict[str, float]:
        """Refuse a group that no bench can have: nothing would ever be judged by its limit."""
        if unknown := [group for group in limits if not _is_group(group)]:
            raise ValueError(
                f"no such group: {', '.join(unknown)}; groups are {', '.join(_GROUPS)}, source:NAME, task:NAME"
            )
        return limits


def shipped() -> list[str]:
    """Names of the shipped policies."""
    names = (entry.name for entry in resources.files("medmim.shipped.policies").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load(ref: str) -> Policy:
    """Load and check a policy.

    Args:
        ref: A shipped name or a YAML file.

    Raises:
        UserError: No such policy, or every problem that it has.
    """
    if ref in shipped():
        text = (resources.files("medmim.shipped.policies") / f"{ref}.yaml").read_text(encoding="utf-8")
        where = f"policy {ref}"
    else:
        try:
            text, where = hints.expanded(ref).read_text(encoding="utf-8"), ref
        except (OSError, UnicodeDecodeError):
            raise UserError(
                f"no gate policy '{ref}'",
                reason="it is neither a readable file nor a shipped name",
                fix=f"set gate.policy to a file or one of: {', '.join(shipped())}",
            ) from None
    fix = "medmim/shipped/policies/default.yaml explains every key"
    return checked(Policy, parse_yaml(text, where), where, fix)


def _is_group(name: str) -> bool:
    if not name.endswith("*"):
        return name in _GROUPS or (name.startswith(_NAMED) and name not in _NAMED)
    stem = name[:-1]
    return stem.startswith(_NAMED) or any(group.startswith(stem) for group in (*_GROUPS, *_NAMED))
