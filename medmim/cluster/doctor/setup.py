"""What pods of medmim would work with: store, MLflow, KFP and image, as recipe, environment and ConfigMap say."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from medmim.cluster.doctor.api import read
from medmim.cluster.kube import Kube
from medmim.errors import UserError
from medmim.recipe.schema import Platform

SETTINGS = "medmim"  # the ConfigMap that every pod of medmim reads
_TOLD = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_CA_BUNDLE")  # what the store's client takes from its environment
_KFP = "http://ml-pipeline.kubeflow:8888"  # where KFP's own manifests put it


@dataclass(frozen=True)
class Setup:
    """What pods would work with. The recipe's word comes first, then this environment's, then the ConfigMap's.

    Attributes:
        platform: The recipe's section.
        configured: The ConfigMap.
        unread: Why it could not be read.
    """

    platform: Platform
    configured: Mapping[str, str] = field(default_factory=dict)
    unread: UserError | None = None

    def get(self, key: str, recipe: str | None = None) -> str:
        """A setting; empty where nobody says it."""
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
        return (self.get("KFP_ENDPOINT") or self.get("KF_PIPELINES_ENDPOINT") or _KFP).rstrip("/")

    @property
    def image(self) -> str:
        """The image of Ray pods."""
        return self.get("MEDMIM_IMAGE", self.platform.pods.image)

    @property
    def environment(self) -> dict[str, str]:
        """What this process lacks to reach the store as pods do. A pod's file is none of this machine."""
        found = {key: self.configured[key] for key in _TOLD if self.configured.get(key) and not os.environ.get(key)}
        return {key: value for key, value in found.items() if not value.startswith("/") or os.path.isfile(value)}


def setup(kube: Kube | None, platform: Platform) -> Setup:
    """What pods of the namespace are told; without a cluster, only what recipe and environment say."""
    if kube is None:
        return Setup(platform)
    try:
        found = read(kube, f"/api/v1/namespaces/{kube.namespace}/configmaps/{SETTINGS}")
    except UserError as error:
        return Setup(platform, unread=error)
    if found is None:
        missing = UserError(
            f"no ConfigMap {SETTINGS} in {kube.namespace}",
            reason="steps read store, MLflow and image there",
            fix="install the chart there, or make it as docs/cluster.md says; or give the right --namespace",
        )
        return Setup(platform, unread=missing)
    return Setup(platform, found.get("data") or {})
