"""The model server of the chart on the real node: asked through its Service while another model is promoted.

MEDMIM_INFERENCE_IMAGE is its image (`make image-inference`), which must be on the node.
"""

import os
import re
import threading
from pathlib import Path
from typing import Any

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
SERVER = "medmim-inference"


def serving(place: Namespace, model: str) -> dict[str, Any]:
    """The chart's values with a server of a model, small enough for two cores."""
    repository, _, tag = IMAGE.rpartition(":")
    asked = {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "4Gi"}}
    inference = {
        "enabled": True, "model": f"models:/{model}@champion", "image": {"repository": repository, "tag": tag},
        "access": {"tokensSecret": "tokens"}, "nodeSelector": REAL, "resources": asked, "extraArgs": ["--every=2"],
    }  # fmt: skip
    return {**place.values(), "inference": inference}


def test_a_question_is_answered_through_the_service_while_a_promotion_is_followed_and_a_rollout_goes_on(
    namespace: Namespace,
    world: World,  # noqa: F811
    tmp_path: Path,
) -> None:
    namespace.need(IMAGE)
    recipe, place = loading.load("demo"), namespace.platform
    namespace.key(place, "medmim-inference-s3", "inference")
    namespace.kubectl("-n", place, "create", "secret", "generic", "tokens", f"--from-literal=tokens={TOKEN}")
    with namespace.forwarded("medmim-mlflow", 5000) as mlflow, namespace.release() as release:
        ws = Workspace(tmp_path, namespace.store, mlflow)
        data = publish(world, ws.store)
        first, second = (register_model(ws, recipe, data, folder) for folder in world.models)
        promote_version(ws, recipe, first)
        values = serving(namespace, recipe.register_.model)
        release.upgrade(CHART, "medmim", values, namespace=place, wait="watcher", timeout=600)
        # Not forwarded: that would hold on to one pod, and this one goes.
        client = openai.OpenAI(base_url=f"http://{namespace.address(SERVER)}/v1", api_key=TOKEN, max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="another-token-of-nobody").models.list()
        name = client.models.list().data[0].id
        seen: list[str] = []
        failed: list[BaseException] = []
        over = threading.Event()

        def ask() -> None:
            while not over.wait(0.2):
                asked: Any = [{"role": "user", "content": "Which?"}]
                try:
                    seen.append(client.chat.completions.create(model=name, messages=asked, max_tokens=4).model)
                except openai.OpenAIError as error:
                    failed.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            until(lambda: seen, 60, "an answer")
            promote_version(ws, recipe, second)
            until(lambda: len(set(seen)) == 2, 60, "an answer of the promoted model")
            logged = namespace.kubectl("-n", place, "logs", f"deployment/{SERVER}", "--tail=-1")
            assert len(re.findall(r"canary of \S+: (\d+) of \1 known answers", logged)) == 2, logged
            (before,) = pods(namespace)
            values["inference"]["podAnnotations"] = {"another": "rollout"}
            release.upgrade(CHART, "medmim", values, namespace=place, wait="watcher", timeout=600)
            until(lambda: len(pods(namespace)) == 1, 120, "the end of the pod before")
            answered = len(seen)
            until(lambda: len(seen) > answered + 5, 60, "answers of the new pod")
        finally:
            over.set()
            asking.join()
        assert before not in pods(namespace)
        assert not failed, f"{len(failed)} questions failed: {failed[0]!r}"
        assert len(set(seen)) == 2, "a question was answered by neither of the two"
        assert seen == sorted(seen, key=list(dict.fromkeys(seen)).index), "the first one, then the second one"


def pods(place: Namespace) -> list[str]:
    """Those of the model server."""
    label = "app.kubernetes.io/component=inference"
    return place.kubectl("-n", place.platform, "get", "pods", "-l", label, "-o", "name").split()
