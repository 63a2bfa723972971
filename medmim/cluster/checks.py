"""Everything that `medmim doctor --cluster` looks at, side by side, each with seconds to answer."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from medmim.check import Check, side_by_side
from medmim.cluster import checks_access, checks_api, checks_image, checks_mlflow, checks_room, checks_servers
from medmim.cluster.checks_api import Unseen, read, unseen_warns
from medmim.cluster.checks_servers import known_in_pods
from medmim.cluster.kube import Kube
from medmim.errors import UserError
from medmim.recipe import Platform

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


def check_all(kube: Kube | None, told: Setup) -> Iterator[Check]:
    """Every check in the order of the screen; all of them run at once.

    Args:
        kube: The cluster; None where it does not answer, and then only servers are looked at.
        told: What pods would work with.
    """
    servers: dict[str, Callable[[], Check]] = {
        "store": lambda: checks_servers.store(told.store),
        "mlflow": lambda: checks_mlflow.mlflow(told.tracking, told.configured.get("MLFLOW_TRACKING_URI", "")),
        "kfp": lambda: checks_servers.kfp(told.kfp),
    }
    if kube is None:
        return side_by_side(servers)
    platform = told.platform
    looks: dict[str, Callable[[], Check]] = {
        "namespace": lambda: checks_api.namespace(kube),
        "account": lambda: checks_access.account(kube),
        "accounts": lambda: checks_access.accounts(kube, platform.pods.service_account),
        "crds": lambda: checks_api.crds(kube),
        "kuberay": lambda: checks_api.kuberay(kube, platform, told.image),
        "settings": lambda: _settings(told),
        "secrets": lambda: checks_image.secrets(kube, platform.pods),
        "image": lambda: checks_image.image(kube, told.image),
        "pods": lambda: checks_room.admission(kube, platform, told.image),
        "quota": lambda: checks_room.quota(kube, platform),
        "nodes": lambda: checks_room.nodes(kube, platform),
        "storage": lambda: checks_room.storage(kube),
        **{name: known_in_pods(kube, look) for name, look in servers.items()},
        "clock": lambda: checks_servers.clock(kube, {"the store": told.store, "MLflow": told.tracking}),
    }
    return side_by_side({name: unseen_warns(name, look) for name, look in looks.items()})


def _settings(told: Setup) -> Check:
    if isinstance(told.unread, Unseen):
        raise told.unread
    if told.unread and not (told.store and told.tracking):
        raise told.unread
    problems = [
        f"{key} is set nowhere"
        for key, value in (("MEDMIM_STORE", told.store), ("MLFLOW_TRACKING_URI", told.tracking))
        if not value
    ]
    if problems:
        raise UserError("; ".join(problems), fix=f"add it to ConfigMap {SETTINGS}, or to the recipe's `platform`")
    other = sorted(key for key in told.configured if os.environ.get(key, told.configured[key]) != told.configured[key])
    here = f"; from this environment instead: {', '.join(other)}" if other else ""
    return Check("settings", "ok", f"ConfigMap {SETTINGS}: {', '.join(sorted(told.configured)) or 'absent'}{here}")
