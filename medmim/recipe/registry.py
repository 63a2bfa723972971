"""The recipe sections `register`, `gate`, `promote` and `retention`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from medmim.recipe.keys import Positive, Section

CANDIDATE = "-candidate"  # suffix of the registered model where candidates await approval


def _production_name(name: str) -> str:
    if name.endswith(CANDIDATE):
        raise ValueError(f"a name ending in {CANDIDATE} is for candidates awaiting approval")
    return name


class Register(Section):
    """Where the tuned model is registered."""

    model: Annotated[str, AfterValidator(_production_name)] = Field(
        "medmim", pattern=r"^[A-Za-z0-9][\w.-]*$", description="name in the MLflow registry"
    )


class Gate(Section):
    """Which policy decides."""

    policy: str = Field("default", description="a shipped policy or a YAML file")


class Promote(Section):
    """Who may make a model champion."""

    approval: Literal["none", "required"] | None = Field(
        None,
        description="required: a candidate that passed the gate waits for `medmim registry promote`; none does not "
        "lift MEDMIM_APPROVAL=required, which a cluster has unless it says none",
    )


class Retention(Section):
    """What `medmim gc` keeps of this recipe's runs and artifacts; what is referenced always stays."""

    last: Positive = Field(3, description="the last N runs, and the last N artifacts of each kind, stay")
    days: int = Field(30, ge=0, description="and so does whatever was used within so many days")
