"""The steps as Kubeflow components: typed interface, parse, one medmim call, outputs. They live on inside the IR."""
