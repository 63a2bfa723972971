"""The steps as Kubeflow components: typed interface, parse, call medmim, outputs. Their source is part of the IR."""
