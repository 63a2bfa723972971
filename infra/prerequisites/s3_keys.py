"""Makes an S3 key for each part of medmim, with its policy of infra/s3; prints the Secrets, SeaweedFS's and ours.

    python3 infra/prerequisites/s3_keys.py RUN_NAMESPACE | kubectl apply -f -

No key is shown or typed. Each time it makes new ones; SeaweedFS reads its Secret when it starts.
"""

import json
import secrets
import sys
from pathlib import Path

POLICIES = Path(__file__).resolve().parents[1] / "s3"
RELEASE, STORE = "medmim", "seaweedfs"  # namespaces
# Secret -> (its namespace, None for the run namespace; its policies)
KEYS = {
    "medmim-s3": (None, ("step",)),
    "medmim-mlflow-s3": (RELEASE, ("mlflow",)),
    "medmim-nightly-s3": (RELEASE, ("step",)),
    "medmim-promoter-s3": (RELEASE, ("promoter",)),
    "medmim-inference-s3": (RELEASE, ("inference",)),
    "medmim-console-s3": (RELEASE, ("console",)),
}


def secret(name: str, namespace: str, data: dict[str, str]) -> dict[str, object]:
    """A Kubernetes Secret."""
    return {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "stringData": data,
    }  # fmt: skip


def made(run_namespace: str) -> list[dict[str, object]]:
    """The Secrets.

    Args:
        run_namespace: Where pipeline runs live.
    """
    identities, found, used = [], [], set()
    for name, (namespace, policies) in KEYS.items():
        access, private = secrets.token_hex(10).upper(), secrets.token_urlsafe(30)
        identities.append(
            {
                "name": name,
                "credentials": [{"accessKey": access, "secretKey": private}],
                "policyNames": list(policies),
            }
        )
        used.update(policies)
        data = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": private}
        found.append(secret(name, namespace or run_namespace, data))
    texts = {name: (POLICIES / f"{name}.json").read_text("utf-8") for name in sorted(used)}
    policies_ = [{"name": name, "content": json.dumps(json.loads(text))} for name, text in texts.items()]
    config = {"identities": identities, "policies": policies_}
    return [secret("seaweedfs-users", STORE, {"seaweedfs_s3_config": json.dumps(config)}), *found]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(
            "error: name the run namespace\nfix: python3 infra/prerequisites/s3_keys.py kubeflow | kubectl apply -f -"
        )
    print(json.dumps({"apiVersion": "v1", "kind": "List", "items": made(sys.argv[1])}, indent=1))
