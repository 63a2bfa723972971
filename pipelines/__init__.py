"""The graphs. `make compile` writes medmim/shipped/pipelines/*.yaml, which the laptop and the cluster both run."""
