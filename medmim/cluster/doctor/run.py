"""Everything that `medmim doctor --cluster` checks, side by side, each with seconds to answer."""

import os
from collections.abc import Callable, Iterator

from medmim.cluster.doctor import access, api, image, mlflow, pods, servers
from medmim.cluster.doctor.api import Unchecked, warn_unchecked
from medmim.cluster.doctor.servers import unchecked_outside
from medmim.cluster.doctor.setup import Setup
from medmim.cluster.kube import Kube
from medmim.doctor.check import Check, run_side_by_side
from medmim.errors import UserError
from medmim.recipe.names import RAY_ACCOUNT, SETTINGS


def check_all(kube: Kube | None, setup: Setup) -> Iterator[Check]:
    """Every check in the order of the screen; all of them run at once.

    Args:
        kube: The cluster; None where it does not answer, and then only servers are checked.
        setup: What pods would work with.
    """
    remote: dict[str, Callable[[], Check]] = {
        "store": lambda: servers.store(setup.store),
        "mlflow": lambda: mlflow.mlflow(setup.tracking, setup.configured.get("MLFLOW_TRACKING_URI", "")),
        "kfp": lambda: servers.kfp(setup.kfp, kube),
    }
    platform = setup.platform
    if platform.ray.startswith("http"):
        remote["ray"] = lambda: servers.ray(platform.ray)
    if kube is None:
        return run_side_by_side(remote)
    checks: dict[str, Callable[[], Check]] = {
        "namespace": lambda: api.namespace(kube),
        "account": lambda: access.account(kube),
        "accounts": lambda: access.accounts(kube, RAY_ACCOUNT),
        "crds": lambda: api.crds(kube),
        "kuberay": lambda: api.kuberay(kube, platform, setup.pods, setup.images()[1]),
        "settings": lambda: _settings(setup),
        "secrets": lambda: image.secrets(kube, setup.pods),
        "launcher": lambda: image.launcher(kube, setup.kfp),
        "image": lambda: image.images(kube, setup.images()),
        "pods": lambda: pods.admission(kube, platform, setup.pods, setup.images()[1]),
        "nodes": lambda: pods.nodes(kube),
        **{name: unchecked_outside(kube, check) for name, check in remote.items()},
        "clock": lambda: servers.clock(kube, {"the store": setup.store, "MLflow": setup.tracking}),
    }
    return run_side_by_side({name: warn_unchecked(name, check) for name, check in checks.items()})


def _settings(setup: Setup) -> Check:
    if isinstance(setup.unread, Unchecked):
        raise setup.unread
    if setup.unread and not (setup.store and setup.tracking):
        raise setup.unread
    problems = [
        f"{key} is not configured"
        for key, value in (("MEDMIM_STORE", setup.store), ("MLFLOW_TRACKING_URI", setup.tracking))
        if not value
    ]
    if problems:
        raise UserError("; ".join(problems), fix=f"add it to ConfigMap {SETTINGS}, or to the recipe's `platform`")
    configured = setup.configured
    other = sorted(key for key in configured if os.environ.get(key, configured[key]) != configured[key])
    here = f"; from this environment instead: {', '.join(other)}" if other else ""
    return Check("settings", "ok", f"ConfigMap {SETTINGS}: {', '.join(sorted(configured)) or 'absent'}{here}")
