"""How a model comes to be served."""

from dataclasses import dataclass
from typing import Literal

Engine = Literal["transformers", "vllm"]


@dataclass(frozen=True)
class Rules:
    """How a model comes to be served.

    Attributes:
        by: What runs it.
        every: Seconds between two looks at the reference.
        questions: Of the canary; 0 asks none.
        agreement: Share of the canary's answers that must be those of the benchmark.
    """

    by: Engine = "transformers"
    every: float = 10.0
    questions: int = 16
    agreement: float = 0.9
