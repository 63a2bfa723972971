"""The models' declarations. `load` stands here for versions that medmim 0.1.0 registered: their file imports it so."""

from medmim.lvlm.checkpoint import load

__all__ = ["load"]
