"""The process of the console, as its command starts it."""

import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

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


def test_it_says_why_nobody_may_promote_and_ends_by_sigterm_without_advice_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDMIM_USER", "root")
    command = [sys.executable, "-m", "medmim.cli.main", "console", "--home", str(tmp_path), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    said = next(line for line in process.stderr if "http://" in line)
    process.terminate()
    rest = process.stderr.read()
    assert "is for reading: 'root' is no person's name" in said
    assert (process.wait(30), "resume" in rest) == (143, False), rest


def test_who_comes_from_this_machine_is_not_the_ingress_by_saying_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medmim.cli.main", "console", "--home", str(tmp_path), "--port", "0"]
    command += ["--identity-header", "X-User", "--proxy", "10.0.0.0/8", "--promoter", "ann"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    address = next(found[0] for line in process.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
    page = httpx.get(f"{address}/runs", headers={"X-Forwarded-For": "10.1.2.3", "X-User": "ann"}, timeout=60)
    process.terminate()
    process.communicate(timeout=30)
    assert "believed from the ingress alone" in page.text
