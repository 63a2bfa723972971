"""medmim: build, fine-tune, bench, register and promote multi-image medical vision-language models."""

__version__ = "0.2.0"
