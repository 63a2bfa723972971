"""Everything that `medmim doctor --cluster` looks at, side by side, each with seconds to answer."""

import os
from collections.abc import Callable, Iterator

from medmim.cluster.doctor import access, api, image, mlflow, room, servers
from medmim.cluster.doctor.api import Unseen, unseen_warns
from medmim.cluster.doctor.servers import known_in_pods
from medmim.cluster.doctor.setup import SETTINGS, Setup
from medmim.cluster.kube import Kube
from medmim.doctor.check import Check, side_by_side
from medmim.errors import UserError


def check_all(kube: Kube | None, told: Setup) -> Iterator[Check]:
    """Every check in the order of the screen; all of them run at once.

    Args:
        kube: The cluster; None where it does not answer, and then only servers are looked at.
        told: What pods would work with.
    """
    reached: dict[str, Callable[[], Check]] = {
        "store": lambda: servers.store(told.store),
        "mlflow": lambda: mlflow.mlflow(told.tracking, told.configured.get("MLFLOW_TRACKING_URI", "")),
        "kfp": lambda: servers.kfp(told.kfp),
    }
    if kube is None:
        return side_by_side(reached)
    platform = told.platform
    looks: dict[str, Callable[[], Check]] = {
        "namespace": lambda: api.namespace(kube),
        "account": lambda: access.account(kube),
        "accounts": lambda: access.accounts(kube, platform.pods.service_account),
        "crds": lambda: api.crds(kube),
        "kuberay": lambda: api.kuberay(kube, platform, told.image),
        "settings": lambda: _settings(told),
        "secrets": lambda: image.secrets(kube, platform.pods),
        "image": lambda: image.image(kube, told.image),
        "pods": lambda: room.admission(kube, platform, told.image),
        "quota": lambda: room.quota(kube, platform),
        "nodes": lambda: room.nodes(kube, platform),
        "storage": lambda: room.storage(kube),
        **{name: known_in_pods(kube, look) for name, look in reached.items()},
        "clock": lambda: servers.clock(kube, {"the store": told.store, "MLflow": told.tracking}),
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
