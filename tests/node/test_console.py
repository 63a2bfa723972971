"""The console of the chart on the real node: a promotion in it, through its Service, followed by the model server.

MEDMIM_CONSOLE_IMAGE and MEDMIM_INFERENCE_IMAGE are the images (`make image-console`, `make image-inference`), which
must be on the node.
"""

import os
import re
from pathlib import Path

import httpx
import openai
import pytest

from medmim.recipe import loading
from medmim.registry import decisions
from medmim.run.workspace import Workspace
from tests.node.test_inference import IMAGE, TOKEN, serving
from tests.node.world import REAL, Namespace
from tests.support.bench import World, publish, world  # noqa: F401
from tests.support.chart import CHART
from tests.support.inference import promote_version, register_model
from tests.support.waiting import until

pytestmark = [pytest.mark.node, pytest.mark.timeout(1800)]

CONSOLE = os.environ.get("MEDMIM_CONSOLE_IMAGE", "localhost/medmim-console:dev")
OF_ANN = "a-token-of-a-promoter"


def test_a_promotion_in_the_console_is_followed_by_the_model_server(
    namespace: Namespace,
    world: World,  # noqa: F811
    tmp_path: Path,
) -> None:
    images = namespace.kubectl("get", "nodes", "-o", "jsonpath={.items[*].status.images[*].names[*]}").split()
    if missing := {CONSOLE, IMAGE} - set(images):
        pytest.skip(f"not on the node: {', '.join(sorted(missing))}")
    recipe, place = loading.load("demo"), namespace.platform
    for name in ("medmim-inference-s3", "medmim-promoter-s3"):
        namespace.key(place, name)
    for name, tokens in (("tokens", TOKEN), ("people", f"ann {OF_ANN}")):
        namespace.kubectl("-n", place, "create", "secret", "generic", name, f"--from-literal=tokens={tokens}")
    repository, _, tag = CONSOLE.rpartition(":")
    console = {
        "enabled": True, "image": {"repository": repository, "tag": tag}, "nodeSelector": REAL,
        "promotion": {"enabled": True, "tokensSecret": "people"},
    }  # fmt: skip
    with namespace.forwarded("medmim-mlflow", 5000) as mlflow:
        ws = Workspace(tmp_path, namespace.store, mlflow)
        data = publish(world, ws.store)
        first, second = (register_model(ws, recipe, data, folder) for folder in world.models)
        promote_version(ws, recipe, first)
        with namespace.release() as release:
            values = {**serving(namespace, recipe.register_.model), "console": console}
            release.upgrade(CHART, "medmim", values, namespace=place, wait="watcher", timeout=600)
        with (
            namespace.forwarded("medmim-inference", 8000) as models,
            namespace.forwarded("medmim-console", 8000) as pages,
            httpx.Client(base_url=pages, follow_redirects=True, timeout=60) as browser,
        ):
            served = openai.OpenAI(base_url=f"{models}/v1", api_key=TOKEN).models
            before = {one.id for one in served.list()}
            path = f"/models/{recipe.register_.model}/{second}/promote"
            assert browser.post(path, data={"why": "without login"}).status_code == 401
            assert browser.post("/login", data={"token": OF_ANN}).status_code == 200
            until(lambda: browser.get(path).status_code != 202, 120, "MLflow's start in the console")
            form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', browser.get(path).text))
            asked = {**form, "why": "better on the node", "despite_gate": "yes"}
            answer = browser.post(path, data=asked, headers={"Origin": pages})
            assert answer.status_code == 200, answer.text
            until(lambda: {one.id for one in served.list()} != before, 300, "the promoted model at the model server")
        last = decisions.read(ws, recipe.register_.model)[-1]
        assert (last.version, last.who, last.why) == (second, "ann", "better on the node")
