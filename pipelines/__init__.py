"""The graphs. `make compile` writes medmim/compiled/*.yaml, which the laptop and the cluster both run."""
