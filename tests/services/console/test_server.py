"""The process of the console, as its command starts it."""

import time
from pathlib import Path

import httpx

from medmim.run.workspace import Workspace
from tests.support.console import TOKEN, serving


def test_a_store_that_is_away_is_said_within_seconds_and_pages_link_where_a_browser_reaches(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ann {TOKEN}\n", encoding="utf-8")
    away = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b" * 9,
        "MEDMIM_MLFLOW_UI": "https://mlflow.example.org", "MEDMIM_RAY_UI": "https://ray.example.org",
    }  # fmt: skip
    ws = Workspace(tmp_path / "home", "s3://bucket/store", "http://mlflow.platform.svc:5000")
    with serving(ws, tokens, **away) as address:
        begin = time.monotonic()
        answer = httpx.get(f"{address}/runs", timeout=60)
        took = time.monotonic() - begin
    assert answer.status_code == 503 and "does not answer" in answer.text
    assert 4 < took < 20, "it was waited for as long as a person waits for a page"
    assert "https://mlflow.example.org" in answer.text and "https://ray.example.org" in answer.text
    assert "platform.svc" not in answer.text, "an address of the cluster is none for a browser"
