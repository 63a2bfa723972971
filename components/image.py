"""The one placeholder image of the IR; `medmim submit` writes the digest-pinned one of this version in its place."""

import medmim

IMAGE = "medmim:placeholder"
VERSION = medmim.__version__
