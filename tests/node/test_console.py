"""The console of the chart on the real node, as people reach it: in a browser, through its Service and behind a login.

MEDMIM_CONSOLE_IMAGE and MEDMIM_INFERENCE_IMAGE are the images (`make image-console`, `make image-inference`), which
must be on the node.
"""

import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from minio import Minio
from minio.error import S3Error

from medmim.recipe import loading
from medmim.recipe.schema import Recipe
from medmim.registry import decisions
from medmim.run.workspace import Workspace
from tests.node import login
from tests.node.conftest import BRIDGE
from tests.node.test_inference import IMAGE, TOKEN, serving
from tests.node.world import REAL, Namespace
from tests.services.console.browser.conftest import Reader, reader  # noqa: F401
from tests.services.console.browser.test_promotion import fill, promote
from tests.services.console.test_policy import walked
from tests.support.bench import World, publish, world  # noqa: F401
from tests.support.chart import CHART
from tests.support.inference import promote_version, register_model
from tests.support.waiting import until

pytestmark = [pytest.mark.node, pytest.mark.timeout(1800)]

CONSOLE = os.environ.get("MEDMIM_CONSOLE_IMAGE", "localhost/medmim-console:dev")
OF_ANN = "a-token-of-a-promoter"


@pytest.fixture
def recipe() -> Recipe:
    return loading.load("demo")


@contextmanager
def registered(
    place: Namespace,
    recipe: Recipe,
    world: World,  # noqa: F811
    home: Path,
) -> Iterator[tuple[Workspace, str, str]]:
    """A champion, and another version."""
    with place.forwarded("medmim-mlflow", 5000) as mlflow:
        ws = Workspace(home, place.store, mlflow)
        data = publish(world, ws.store)
        first, second = (register_model(ws, recipe, data, folder) for folder in world.models)
        promote_version(ws, recipe, first)
        yield ws, first, second


def with_console(**own: Any) -> dict[str, Any]:
    """The chart's values of a console that is small enough for two cores."""
    repository, _, tag = CONSOLE.rpartition(":")
    asked = {"requests": {"cpu": "200m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}}
    image = {"repository": repository, "tag": tag}
    return {"console": {"enabled": True, "image": image, "nodeSelector": REAL, "resources": asked, **own}}


def upgrade(place: Namespace, values: Mapping[str, Any]) -> None:
    with place.release() as release:
        release.upgrade(CHART, "medmim", values, namespace=place.platform, wait="watcher", timeout=600)


def audited(place: Namespace) -> list[dict[str, str]]:
    """The audit lines of the console's pod."""
    lines = place.kubectl("-n", place.platform, "logs", "deployment/medmim-console", "--tail=-1").splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"time"')]


def test_a_console_that_reads_shows_every_page_with_a_key_that_changes_nothing(
    namespace: Namespace,
    recipe: Recipe,
    world: World,  # noqa: F811
    tmp_path: Path,
) -> None:
    namespace.need(CONSOLE)
    key = namespace.key(namespace.platform, "medmim-console-s3", "console")
    with registered(namespace, recipe, world, tmp_path) as (ws, first, second):
        upgrade(namespace, {**namespace.values(), **with_console()})
        with namespace.forwarded("medmim-console", 8000) as pages:
            client = httpx.Client(base_url=pages, follow_redirects=True, timeout=60)
            seen = walked(client)  # type: ignore[arg-type]  asked in the same way
            path = f"/models/{recipe.register_.model}/{second}/promote"
            assert {"/runs", "/nights", f"/models/{recipe.register_.model}"} <= set(seen)
            assert {status for status, _ in seen.values()} == {200}, {k: v[0] for k, v in seen.items() if v[0] != 200}
            assert len([one for one in seen if one.startswith(("/leaderboard/", "/items/", "/images/"))]) > 2
            for token in (OF_ANN, "", "x" * 4000):
                assert client.post("/login", data={"token": token}).status_code == 401
            assert client.post(path, data={"why": "without login", "seen": "1"}).status_code == 401
            client.close()
        assert [(one["what"], one["who"], one["result"].partition(":")[0]) for one in audited(namespace)] == [
            ("promote", "", "refused")
        ]
        assert [one.version for one in decisions.read(ws, recipe.register_.model)] == [first]
    its = Minio(
        os.environ["AWS_ENDPOINT_URL"].removeprefix("http://"),
        key["AWS_ACCESS_KEY_ID"],
        key["AWS_SECRET_ACCESS_KEY"],
        secure=False,
    )
    keys = namespace.objects("store/")
    weights = next(one for one in keys if one.endswith(".safetensors"))
    manifest = next(one for one in keys if one.startswith("store/model/") and one.endswith("manifest.json"))
    assert its.get_object(namespace.bucket, manifest).data
    for refused in (
        lambda: its.get_object(namespace.bucket, weights),
        lambda: its.put_object(namespace.bucket, f"{manifest}.x", io.BytesIO(b"x"), 1),
        lambda: its.put_object(namespace.bucket, "store/decisions/x/9.json", io.BytesIO(b"x"), 1),
        lambda: its.remove_object(namespace.bucket, manifest),
    ):
        with pytest.raises(S3Error, match="Access ?Denied"):
            refused()


def test_a_promotion_by_browser_keeps_the_registrys_rules_and_is_followed_by_the_model_server(
    namespace: Namespace,
    recipe: Recipe,
    world: World,  # noqa: F811
    reader: Callable[..., Reader],  # noqa: F811
    tmp_path: Path,
) -> None:
    import openai

    namespace.need(CONSOLE, IMAGE)
    name, place = recipe.register_.model, namespace.platform
    for role in ("inference", "promoter"):
        namespace.key(place, f"medmim-{role}-s3", role)
    for secret, tokens in (("tokens", TOKEN), ("people", f"ann {OF_ANN}")):
        namespace.kubectl("-n", place, "create", "secret", "generic", secret, f"--from-literal=tokens={tokens}")
    with registered(namespace, recipe, world, tmp_path) as (ws, first, second):
        own = with_console(promotion={"enabled": True, "tokensSecret": "people"})
        upgrade(namespace, {**serving(namespace, name), **own})
        with (
            namespace.forwarded("medmim-inference", 8000) as models,
            namespace.forwarded("medmim-console", 8000) as pages,
        ):
            client = openai.OpenAI(base_url=f"{models}/v1", api_key=TOKEN)
            follows = f"{name}@champion"

            def answering() -> str:
                """The very model that answers."""
                asked: Any = [{"role": "user", "content": "Which?"}]
                return client.chat.completions.create(model=follows, messages=asked, max_tokens=4).model

            before = answering()
            one = reader(pages)
            one.open(f"/models/{name}/{second}/promote")
            one.page.get_by_role(
                "heading", name=f"Promote version {second}"
            ).wait_for()  # once MLflow has started in it
            assert one.page.get_by_role("button", name="Make it champion").count() == 0
            one.log_in(OF_ANN)
            one.open(f"/models/{name}/{second}/refuse")
            one.page.get_by_label(re.compile("^Why")).fill("not yet")
            one.page.get_by_role("button", name="Refuse it").click()
            one.page.get_by_text(f"Version {second} is refused.").wait_for()
            one.open(f"/models/{name}/{second}/promote")
            fill(one, "without the box")
            one.page.get_by_text("ann refused it").first.wait_for()
            assert decisions.read(ws, name)[-1].verdict == "refused"
            assert answering() == before

            one.open(f"/models/{name}/{second}/promote")
            one.page.get_by_label("Promote it despite the gate").check()
            fill(one, "better on the node")
            one.page.get_by_text(f"Version {second} of {name} is champion now.").wait_for()
            until(lambda: answering() != before, 120, "an answer of the promoted model")
            one.open(f"/models/{name}")
            one.page.get_by_role("link", name="Roll back").click()
            one.page.get_by_label("Why").fill("it was not")
            one.page.get_by_role("button", name="Roll back").click()
            one.page.get_by_text(f"Version {first} of {name} is champion now.").wait_for()
            until(lambda: answering() == before, 120, "an answer of the model before")
        log = decisions.read(ws, name)
        lines = audited(namespace)
    assert [(entry.verdict, entry.version, entry.who) for entry in log[1:]] == [
        ("refused", second, "ann"),
        ("promoted", second, "ann"),
        ("rolled-back", first, "ann"),
    ]
    assert [(line["what"], line["who"], line["result"].partition(":")[0]) for line in lines] == [
        ("refuse", "ann", "started"),
        ("refuse", "ann", "done"),
        ("promote", "ann", "started"),
        ("promote", "ann", "failed"),
        ("promote", "ann", "started"),
        ("promote", "ann", "done"),
        ("rollback", "ann", "started"),
        ("rollback", "ann", "done"),
    ]
    assert lines[5]["why"] == "better on the node" and lines[5]["version"] == second


def test_whom_the_login_of_the_ingress_names_promotes_and_a_forged_header_does_nothing(
    namespace: Namespace,
    recipe: Recipe,
    world: World,  # noqa: F811
    reader: Callable[..., Reader],  # noqa: F811
    tmp_path: Path,
) -> None:
    namespace.need(CONSOLE)
    login.need()
    name, place = recipe.register_.model, namespace.platform
    namespace.key(place, "medmim-promoter-s3", "promoter")
    promotion = {"enabled": True, "identityHeader": login.HEADER, "promoters": ["ann"]}
    ingress = {"enabled": True, "className": "nginx", "host": login.HOST}
    own = with_console(promotion=promotion, proxies=[f"{BRIDGE}/32"], ingress=ingress)
    policy = {"networkPolicy": {"consoleFrom": [{"ipBlock": {"cidr": f"{BRIDGE}/32"}}]}}
    people = {"ann": "a-password-of-ann", "eve": "a-password-of-eve"}
    with registered(namespace, recipe, world, tmp_path) as (ws, _, second):
        upgrade(namespace, {**namespace.values(), **own, **policy})
        path = f"/models/{name}/{second}/promote"
        with login.before(namespace.address("medmim-console"), tmp_path / "login", people) as pages:

            def enter(person: str, **settings: Any) -> Reader:
                one = reader(pages, ignore_https_errors=True, **settings)
                one.page.goto(pages + path)
                one.page.locator("[name=username]").fill(person)
                one.page.locator("[name=password]").fill(people[person])
                one.page.locator("[name=password]").press("Enter")
                one.page.get_by_role("heading", name=f"Promote version {second}").wait_for()
                return one

            eve = enter("eve", extra_http_headers={login.HEADER: "ann"})
            assert eve.page.get_by_text("only who has logged in as a promoter decides").count() == 1
            assert eve.page.get_by_role("button", name="Make it champion").count() == 0
            forged = {login.HEADER: "ann"}
            with namespace.forwarded("medmim-console", 8000) as direct:
                answer = httpx.post(direct + path, data={"why": "forged", "seen": "1"}, headers=forged)
            assert (answer.status_code, "believed from the ingress alone" in answer.text) == (401, True)
            asked = (
                f"wget -T 10 -t 1 -qO- --header='{login.HEADER}: ann' http://medmim-console:8000{path} || echo no way"
            )
            page = namespace.kubectl("-n", place, "exec", "deployment/medmim-mlflow", "--", "sh", "-c", asked)
            assert page == "no way\n" or "You cannot promote it" in page, page

            ann = enter("ann")
            promote(ann, name, second, "better behind a login")
            ann.page.get_by_text(f"Version {second} of {name} is champion now.").wait_for()
        last = decisions.read(ws, name)[-1]
        lines = audited(namespace)
    assert (last.version, last.who, last.why) == (second, "ann", "better behind a login")
    told = [(line["who"], line["address"], line["result"].partition(":")[0]) for line in lines]
    assert told == [("", "127.0.0.1", "refused"), ("ann", "127.0.0.1", "started"), ("ann", "127.0.0.1", "done")]
