"""Which roots of a recipe pods and nodes can read: addresses in S3, and folders that are not of this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

from medmim import hints
from medmim.recipe.names import RAW_FOLDER
from medmim.recipe.schema import Data


def unreadable(data: Data, claim: str, mounts: bool = True, in_pod: bool = False) -> Iterator[str]:
    """The roots that other machines cannot read, each with its key.

    Args:
        data: The recipe's section.
        claim: The claim with raw data that is mounted into pods; empty: none.
        mounts: Whether medmim makes the pods. The nodes of a running Ray cluster have their own volumes.
        in_pod: This process is a pod, whose folders are its image's, as those of the other pods are.
    """
    for key, folder in _folders(data):
        if folder.startswith("s3://"):
            continue
        if _is_claimed(folder) and (claim or not mounts):
            continue
        if _is_claimed(folder):
            yield f"{key}: {folder} is of a claim with raw data, and the chart's rawData.existingClaim names none"
        elif not os.path.isabs(folder) or (not in_pod and hints.expanded(folder).exists()):
            yield (
                f"{key}: {folder} is a folder of this machine, which pods cannot read; give an s3:// address, a folder "
                f"below {RAW_FOLDER} (the chart's rawData.existingClaim), or put data that are no patients' into an "
                "image made FROM medmim's, and name its path there"
            )


def needs_claim(data: Data) -> bool:
    """Whether a root is below the folder where the claim with raw data is mounted."""
    return any(_is_claimed(folder) for _, folder in _folders(data))


def _is_claimed(folder: str) -> bool:
    return Path(folder).is_relative_to(RAW_FOLDER)


def _folders(data: Data) -> Iterator[tuple[str, str]]:
    for key in ("root", "annotations"):
        if folder := getattr(data, key):
            yield f"data.{key}", folder
    for number, own in enumerate(data.read_from if data.sources else ()):
        for key in ("root", "annotations"):
            if (folder := getattr(own, key, None)) and folder != data.root:
                yield f"data.sources.{number}.{key}", folder
