"""Which of medmim's two images runs what: the one with torch what trains or asks a model, `image` all the rest.

One image may do both. So whoever names `image` alone names both: what a setting further away calls the other one may
be of another version.
"""

import os

from medmim.recipe.pods import Pods

IMAGE, CUDA_IMAGE = "MEDMIM_IMAGE", "MEDMIM_CUDA_IMAGE"
Named = tuple[str | None, str | None]  # (image, the one with torch) of one place


def chosen(*places: Named) -> tuple[str, str]:
    """The two images; empty where no place names one.

    Args:
        places: What each place names, the nearest first.
    """
    image = next((one for one, _ in places if one), "")
    return image, next((cuda or one or "" for one, cuda in places if one or cuda), "")


def of_environment() -> Named:
    """What the environment names."""
    return os.environ.get(IMAGE), os.environ.get(CUDA_IMAGE)


def of_recipe(pods: Pods) -> Named:
    """What a recipe names."""
    return pods.image, pods.cuda_image
