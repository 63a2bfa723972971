"""One control plane for all tests of the chart: its scheduler's ports are fixed, so a second one cannot start."""

from tests.cluster.conftest import kubeconfig  # noqa: F401
