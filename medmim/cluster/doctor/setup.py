"""What pods of medmim would work with: store, MLflow, KFP and image, from recipe, environment and ConfigMap."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from medmim.cluster import images, pod_templates
from medmim.cluster.doctor.api import read
from medmim.cluster.kube import Kube
from medmim.cluster.pod_templates import PodTemplates
from medmim.errors import UserError
from medmim.recipe import names
from medmim.recipe.schema import Platform

_STORE_CLIENT = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_CA_BUNDLE")  # what it takes from its environment


@dataclass(frozen=True)
class Setup:
    """What pods would work with. The recipe comes first, then this environment, then the ConfigMap.

    Attributes:
        platform: The recipe's section.
        configured: The ConfigMap.
        unread: Why it could not be read.
    """

    platform: Platform
    configured: Mapping[str, str] = field(default_factory=dict)
    unread: UserError | None = None

    def get(self, key: str, recipe: str | None = None) -> str:
        """A setting; empty where it is not configured."""
        return recipe or os.environ.get(key) or self.configured.get(key) or ""

    @property
    def store(self) -> str:
        """The artifact store."""
        return self.get("MEDMIM_STORE", self.platform.store)

    @property
    def tracking(self) -> str:
        """MLflow."""
        return self.get("MLFLOW_TRACKING_URI", self.platform.tracking).rstrip("/")

    @property
    def kfp(self) -> str:
        """KFP's API, by the variables that `medmim submit` and KFP's own client read."""
        return (self.get("KFP_ENDPOINT") or self.get("KF_PIPELINES_ENDPOINT") or names.KFP_ENDPOINT).rstrip("/")

    @property
    def image(self) -> str:
        """The image of what needs no torch."""
        return self.images()[0]

    def images(self, *nearer: images.Named) -> tuple[str, str]:
        """The image of what needs no torch, and that of what does.

        Args:
            nearer: What comes before the recipe.
        """
        configured = self.configured.get(images.IMAGE), self.configured.get(images.CUDA_IMAGE)
        return images.chosen(*nearer, images.of_recipe(self.platform.pods), images.of_environment(), configured)

    @property
    def pods(self) -> PodTemplates:
        """What the platform wants of pods. Raises UserError where its text cannot be read."""
        return pod_templates.parse(self.get(pod_templates.SETTING))

    @property
    def environment(self) -> dict[str, str]:
        """What this process must add to its environment to reach the store as pods do.

        A path of the ConfigMap is one in a pod: it is left out unless this machine has that file too.
        """
        absent = [key for key in _STORE_CLIENT if self.configured.get(key) and not os.environ.get(key)]
        found = {key: self.configured[key] for key in absent}
        return {key: value for key, value in found.items() if not value.startswith("/") or os.path.isfile(value)}


def resolve(kube: Kube | None, platform: Platform) -> Setup:
    """The settings of the namespace's pods; without a cluster, only those of recipe and environment."""
    if kube is None:
        return Setup(platform)
    try:
        found = read(kube, f"/api/v1/namespaces/{kube.namespace}/configmaps/{names.SETTINGS}")
    except UserError as error:
        return Setup(platform, unread=error)
    if found is None:
        missing = UserError(
            f"no ConfigMap {names.SETTINGS} in {kube.namespace}",
            reason="steps read store, MLflow and image there",
            fix="install the chart there, or make it as docs/cluster.md says; or give the right --namespace",
        )
        return Setup(platform, unread=missing)
    return Setup(platform, found.get("data") or {})
