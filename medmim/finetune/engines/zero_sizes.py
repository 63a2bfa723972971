"""How much DeepSpeed holds at once, in numbers: what it is configured with, and what the memory plan counts."""

BUCKET = 50_000_000  # gradients that are summed together
PREFETCH = 50_000_000  # weights that are gathered ahead
REUSE = 1_000_000_000  # weights passed until its next use, up to which a gathered one is kept
WHOLE = 100_000  # of a weight that every worker keeps whole
