"""The one placeholder image of the IR; `medmim submit` writes the digest-pinned one in its place."""

IMAGE = "medmim:placeholder"
