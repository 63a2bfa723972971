"""The placeholder images of the IR; `medmim submit` writes the digest-pinned ones in their place."""

CPU = "medmim-cpu:placeholder"
CUDA = "medmim-cuda:placeholder"  # of the steps that train or ask a model where they run
