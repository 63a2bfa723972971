"""The steps as Kubeflow components: typed interface, parse, one medmim call, outputs. Their source is part of the IR."""
