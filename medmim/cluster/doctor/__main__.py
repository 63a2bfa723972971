"""python -m medmim.cluster.doctor CHECK: one check from inside a pod, with its settings. The chart's `helm test`.

CHECK is one of:
    store            the store of MEDMIM_STORE
    artifacts        the store of MLFLOW_ARTIFACTS, which MLflow's server alone writes
    mlflow           the MLflow of MLFLOW_TRACKING_URI, with this pod's user
    access RIGHT...  this account has the rights of its role, and none of `not VERB RESOURCE[.GROUP] [NAMESPACE]`
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from medmim.cluster import kube
from medmim.cluster.doctor import access
from medmim.cluster.doctor.mlflow import mlflow
from medmim.doctor import check
from medmim.doctor.check import Check
from medmim.errors import BAD_INPUT, UserError


def main(words: Sequence[str]) -> int:
    """Run one check and print its lines.

    Returns:
        The exit code: 0, or that of a line which failed.
    """
    known: Mapping[str, Mapping[str, Callable[[], Check]]] = {
        "store": {"store": lambda: check.store(_setting("MEDMIM_STORE"))},
        "artifacts": {"artifacts": lambda: replace(check.store(_setting("MLFLOW_ARTIFACTS")), name="artifacts")},
        "mlflow": {"mlflow": lambda: mlflow(_setting("MLFLOW_TRACKING_URI"), "")},
        "access": {
            "account": lambda: access.account(kube.connect()),
            "denied": lambda: access.denied(kube.connect(), words[1:]),
        },
    }
    name = words[0] if words else ""
    if name not in known:
        sys.stderr.write(f"error: no check '{name}'\nfix: give one of {', '.join(known)}\n")
        return BAD_INPUT
    if name == "access" and not words[1:]:
        sys.stderr.write(
            "error: access names no right\nfix: give at least one `not VERB RESOURCE[.GROUP] [NAMESPACE]`\n"
        )
        return BAD_INPUT
    lines = list(check.run_side_by_side(known[name]))
    sys.stdout.writelines(f"{check.line(one)}\n" for one in lines)
    return max(one.exit_code for one in lines)


def _setting(key: str) -> str:
    if not os.environ.get(key):
        raise UserError(f"{key} is not set", fix="add it to ConfigMap medmim of this namespace")
    return os.environ[key]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
