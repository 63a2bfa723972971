"""The benchmark of the audit finds what it has planted."""

from pathlib import Path

import audit as benchmark

from medmim.data.audit import run as audit
from medmim.run.workspace import workspace


def test_the_planted_look_alikes_are_all_that_is_found(tmp_path: Path) -> None:
    uri, planted = benchmark.build(tmp_path, 600, 1200)
    ws = workspace(tmp_path)
    report = audit.read(audit.audit_artifact(ws, uri)[0])
    checks = {check["name"]: check["value"] for check in report["checks"]}
    assert planted == 150 and (checks["look-alikes"], checks["pixels"], checks["images"]) == (150, 0, 0)
