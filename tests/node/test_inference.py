"""The model server of the chart on the real node: asked through its Service while another model is promoted.

MEDMIM_INFERENCE_IMAGE is its image (`make image-inference`), which must be on the node.
"""

import os
import threading
from pathlib import Path

import openai
import pytest

from medmim.recipe import loading
from medmim.run.workspace import Workspace
from tests.node.world import REAL, Namespace
from tests.support.bench import World, publish, world  # noqa: F401
from tests.support.chart import CHART
from tests.support.inference import promote_version, register_model
from tests.support.waiting import until

pytestmark = [pytest.mark.node, pytest.mark.timeout(1800)]

IMAGE = os.environ.get("MEDMIM_INFERENCE_IMAGE", "localhost/medmim-inference:dev")
TOKEN = "a-token-of-a-program"


def serving(place: Namespace, model: str) -> dict[str, object]:
    """The chart's values with a server of a model, small enough for two cores."""
    repository, _, tag = IMAGE.rpartition(":")
    asked = {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "4Gi"}}
    inference = {
        "enabled": True, "model": f"models:/{model}@champion", "image": {"repository": repository, "tag": tag},
        "access": {"tokensSecret": "tokens"}, "nodeSelector": REAL, "resources": asked, "extraArgs": ["--every=2"],
    }  # fmt: skip
    return {**place.values(), "inference": inference}


def test_a_question_is_answered_through_the_service_and_a_promotion_is_followed(
    namespace: Namespace,
    world: World,  # noqa: F811
    tmp_path: Path,
) -> None:
    images = namespace.kubectl("get", "nodes", "-o", "jsonpath={.items[*].status.images[*].names[*]}").split()
    if IMAGE not in images:
        pytest.skip(f"no image {IMAGE} on the node: `make image-inference`, import it, set MEDMIM_INFERENCE_IMAGE")
    recipe = loading.load("demo")
    namespace.key(namespace.platform, "medmim-inference-s3")
    secret = ("create", "secret", "generic", "tokens", f"--from-literal=tokens={TOKEN}")
    namespace.kubectl("-n", namespace.platform, *secret)
    with namespace.forwarded("medmim-mlflow", 5000) as mlflow:
        ws = Workspace(tmp_path, namespace.store, mlflow)
        data = publish(world, ws.store)
        first, second = (register_model(ws, recipe, data, folder) for folder in world.models)
        promote_version(ws, recipe, first)
        with namespace.release() as release:
            values = serving(namespace, recipe.register_.model)
            release.upgrade(CHART, "medmim", values, namespace=namespace.platform, wait="watcher", timeout=600)
        with namespace.forwarded("medmim-inference", 8000) as address:
            client = openai.OpenAI(base_url=f"{address}/v1", api_key=TOKEN, max_retries=0)
            with pytest.raises(openai.AuthenticationError):
                client.with_options(api_key="another-token-of-nobody").models.list()
            name = client.models.list().data[0].id
            seen: list[str] = []
            over = threading.Event()

            def ask() -> None:
                while not over.is_set():
                    asked = [{"role": "user", "content": "Which?"}]
                    seen.append(client.chat.completions.create(model=name, messages=asked, max_tokens=4).model)

            asking = threading.Thread(target=ask)
            asking.start()
            try:
                until(lambda: seen, 60, "an answer")
                promote_version(ws, recipe, second)
                until(lambda: len(set(seen)) == 2 or not asking.is_alive(), 60, "an answer of the promoted model")
            finally:
                over.set()
                asking.join()
            assert len(set(seen)) == 2, "a question failed, or the promotion was not followed"
            assert seen == sorted(seen, key=list(dict.fromkeys(seen)).index), "the first one, then the second one"
