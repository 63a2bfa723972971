"""helm test: MLflow keeps a run with a metric and an artifact, gives both back, and deletes the run."""

import logging
import os
import sys
import tempfile

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"

from mlflow import MlflowClient  # noqa: E402  it reads the environment when it is imported
from mlflow.exceptions import MlflowException  # noqa: E402

logging.getLogger("mlflow").setLevel(logging.ERROR)
uri = os.environ["MLFLOW_TRACKING_URI"]
try:
    client = MlflowClient(uri)
    known = client.get_experiment_by_name("medmim-check")
    experiment = known.experiment_id if known else client.create_experiment("medmim-check")
    run = client.create_run(experiment).info.run_id
    client.log_metric(run, "answer", 42)
    client.log_text(run, "medmim", "check.txt")
    with tempfile.TemporaryDirectory() as folder, open(client.download_artifacts(run, "check.txt", folder)) as file:
        came = (client.get_run(run).data.metrics.get("answer"), file.read())
    client.delete_run(run)
except MlflowException as error:
    sys.exit(
        f"error: MLflow at {uri} does not keep a run\nreason: {str(error)[:500]}\n"
        "fix: see the log of deployment/medmim-mlflow; with mlflow.auth check Secret medmim-mlflow of this namespace"
    )
if came != (42, "medmim"):
    sys.exit(f"error: MLflow at {uri} gave back {came}")
sys.stdout.write(f"{uri}: run, metric and artifact written, read, deleted\n")
