"""Answers and scores carry the strictest terms of the data set and the models."""

import shutil
from pathlib import Path

import pytest

from medmim import store
from medmim.bench import engines, run
from medmim.errors import UserError
from medmim.recipe.schema import Bench
from medmim.run.provenance import terms_of
from medmim.run.workspace import workspace
from medmim.terms import UNKNOWN, Terms, combine
from tests.support.bench import World

SETTINGS = Bench(max_new_tokens=1, probes=(), limit=4)
DATA = Terms(serve=True, commercial_use=True, text=("of the data",))
ONE = Terms(serve=True, release_weights=True, text=("of the first model",))


def test_answers_have_the_terms_of_data_and_model_and_scores_those_of_all(world: World, tmp_path: Path) -> None:
    ws = workspace(tmp_path / "home")
    data = store.publish(world.data, ws.store, "data", {}, {"terms": DATA.as_dict()}).uri
    first = shutil.copytree(world.models[0], tmp_path / "first")
    (first / "terms.json").write_text(ONE.dump())
    alone, _ = run.bench(ws, data, {"tuned": str(first)}, SETTINGS)
    assert terms_of(alone) == combine([DATA, ONE])
    both, _ = run.bench(ws, data, {"tuned": str(first), "base": str(world.models[1])}, SETTINGS)
    assert terms_of(both) == combine([DATA, ONE, UNKNOWN])
    found = run.scores(ws, both.uri)["answers"]
    by_role = {role: terms_of(store.get(f"{ws.store}/answers/{probes['none']}")) for role, probes in found.items()}
    assert by_role == {"tuned": combine([DATA, ONE]), "base": combine([DATA, UNKNOWN])}


@pytest.mark.parametrize(
    ("address", "refused"),
    [
        ("https://api.example.com/v1", True),
        ("https://8.8.8.8/v1", True),
        ("https://svc.example.com/v1", True),
        ("http://134744072/v1", True),  # 8.8.8.8, as resolvers read it
        ("http://0x08080808/v1", True),
        ("http://8\u30028\u30028\u30028/v1", True),  # full stops of another script
        ("http://0x108080808080/v1", True),
        ("http://999999999999/v1", True),
        ("http://2130706433/v1", False),  # 127.0.0.1
        ("http://notlocal/v1", False),
        ("http://127.0.0.1:8000/v1", False),
        ("http://[::1]:8000/v1", False),
        ("http://10.1.2.3:8000/v1", False),
        ("http://vllm.models.svc:8000/v1", False),
        ("http://vllm.models.svc.cluster.local/v1", False),
        ("https://LLM.hospital.example/v1", False),
    ],
)
def test_a_data_set_is_not_sent_to_a_server_of_somebody_else_where_its_terms_forbid_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, refused: bool
) -> None:
    monkeypatch.setenv("MEDMIM_OWN_SERVERS", "other.example, llm.hospital.example")
    asked = [
        engines.engine(f"openai:{address}#m", workspace(tmp_path)),
        engines.engine("tiny-mantis", workspace(tmp_path)),
    ]
    engines.refuse_outside(asked, Terms(outside_api=True, text=("a: all",)))
    forbids = Terms(serve=True, text=("MIMIC: not to be sent away",))
    if refused:
        with pytest.raises(UserError, match="must not be sent to") as caught:
            engines.refuse_outside(asked, forbids)
        assert "outside_api: not allowed by MIMIC" in caught.value.reason
    else:
        engines.refuse_outside(asked, forbids)


def test_a_bench_asks_no_server_of_somebody_else_about_such_a_data_set(world: World, tmp_path: Path) -> None:
    ws = workspace(tmp_path / "home")
    data = store.publish(world.data, ws.store, "data", {}, {"terms": DATA.as_dict()}).uri
    assert not DATA.outside_api
    with pytest.raises(UserError, match=r"must not be sent to api\.example\.com"):
        run.bench(ws, data, {"model": "openai:https://api.example.com/v1#m"}, SETTINGS)
