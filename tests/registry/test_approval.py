"""Promotion that needs approval: a run proposes, a promoter promotes, and a step's credentials change no alias."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medmim import hints, store, tracking
from medmim.errors import REFUSED, Refused, UserError
from medmim.recipe.registry import Promote
from medmim.recipe.schema import Bench, Recipe
from medmim.registry import aliases, approval, decisions, gate, lookup, promote, register, retired
from medmim.registry.decisions import Decision
from medmim.run.workspace import Workspace, sqlite_path
from medmim.store import open_store
from medmim.tracking import training_run
from tests.support.registry import digest_of, model

ROOT = Path(__file__).parents[2]
NAME = "medmim-demo"
CANDIDATES = f"{NAME}-candidate"


@pytest.fixture
def guarded(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"promote": Promote(approval="required")})


def add(ws: Workspace, title: str, name: str = CANDIDATES) -> str:
    api = tracking.client(ws)
    if name not in tracking.registered(ws, name):
        api.create_registered_model(name)
    made = model(ws, title)
    tags = {lookup.DIGEST: made.digest, lookup.URI: made.uri}
    source = ws.home.as_uri() if sqlite_path(ws.tracking) else "s3://medmim/mlflow"  # a server takes no local one
    return str(api.create_model_version(name, source=source, tags=tags).version)


@pytest.fixture
def propose(ws: Workspace, guarded: Recipe, scored: Callable[..., Any]) -> Callable[..., Any]:
    """Register a model as a candidate, bench and judge it, and let the run promote as far as it may."""
    names = {digest_of(title): title for title in ("blind", "fair", "good")}

    def propose(title: str) -> Any:
        holder = lookup.champion(ws, NAME)
        against = names[holder.digest] if holder and holder.digest != digest_of(title) else ""
        benched = scored(ws, title, against)
        known = lookup.find(ws, CANDIDATES, digest_of(title))
        number = known.number if known else add(ws, title)
        return number, promote.run(guarded, ws, number, gate.run(guarded, ws, benched.uri).uri)

    return propose


@pytest.mark.parametrize(
    ("platform", "pod", "unset", "none"),
    [("", False, NAME, NAME), ("none", False, NAME, NAME), ("none", True, NAME, NAME)]
    + [("required", pod, CANDIDATES, CANDIDATES) for pod in (False, True)]
    + [("", True, CANDIDATES, CANDIDATES)],  # a pod without its ConfigMap
)
def test_of_platform_and_recipe_the_stricter_decides_and_a_cluster_that_does_not_say_wants_approval(
    recipe: Recipe, guarded: Recipe, monkeypatch: pytest.MonkeyPatch, platform: str, pod: bool, unset: str, none: str
) -> None:
    monkeypatch.setenv("MEDMIM_APPROVAL", platform)
    monkeypatch.setenv("KFP_POD_NAME", "train-x7-impl-1" if pod else "")
    lifted = recipe.model_copy(update={"promote": Promote(approval="none")})
    assert [training_run.model_name(r) for r in (recipe, lifted, guarded)] == [unset, none, CANDIDATES]
    monkeypatch.setenv("MEDMIM_APPROVAL", "yes")
    with pytest.raises(UserError, match="MEDMIM_APPROVAL is 'yes'"):
        training_run.model_name(recipe)


@pytest.mark.parametrize("who", ["medmim", "root", "$(MEDMIM_USER)", "uid 10001"])
def test_nobody_promotes_or_rolls_back_and_no_variable_is_a_reason(
    ws: Workspace, propose: Callable[..., Any], who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, _ = propose("fair")
    monkeypatch.setenv("MEDMIM_USER", who)
    with pytest.raises(UserError, match="no person"):
        promote.promote(ws, CANDIDATES, number, "looked at twenty answers")
    with pytest.raises(UserError, match="no person"):
        promote.rollback(ws, NAME, "it hallucinates")
    monkeypatch.setenv("MEDMIM_USER", "jane")
    for why in ("$(WHY)", "because of ${WHY}", "medmim", "..."):
        with pytest.raises(UserError, match="needs its reason"):
            promote.promote(ws, CANDIDATES, number, why)
        with pytest.raises(UserError, match="needs its reason"):
            promote.rollback(ws, NAME, why)
    assert decisions.names(ws) == [] and list(tracking.registered(ws)) == [CANDIDATES]
    assert promote.promote(ws, CANDIDATES, number, "it costs $5 (a year)").who == "jane"


def test_what_a_person_refuses_awaits_no_approval_and_no_later_run_proposes_it(
    ws: Workspace, propose: Callable[..., Any]
) -> None:
    number, _ = propose("fair")
    entry = promote.refuse(ws, CANDIDATES, number, "it sees no masses", "jane")
    assert (entry.verdict, entry.who, entry.evidence) == ("refused", "jane", "")
    assert entry.why == f"it sees no masses (version {number} of {CANDIDATES})"
    assert approval.awaiting(ws, CANDIDATES) == [] and decisions.roles(decisions.read(ws, NAME)) == decisions.Roles()
    assert promote.refuse(ws, CANDIDATES, number, "again", "ann") == entry
    assert not decisions.was_made(ws, NAME), "whoever makes NAME now is no promoter"
    with pytest.raises(Refused, match="refused by a person"):
        propose("fair")
    with pytest.raises(Refused, match="refused by a person") as error:
        promote.promote(ws, CANDIDATES, number, "but I like it", "ann")
    assert "it sees no masses" in error.value.reason and "--despite-gate" in error.value.fix
    made = promote.promote(ws, CANDIDATES, number, "but I like it", "ann", despite_gate=True)
    assert "although jane refused it in decision 1: it sees no masses" in made.why
    with pytest.raises(UserError, match="is the champion") as holds:
        promote.refuse(ws, CANDIDATES, number, "no", "jane")
    assert "rollback" in holds.value.fix


def test_a_run_proposes_and_changes_neither_log_nor_production(
    ws: Workspace, propose: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    number, outcome = propose("fair")
    typed = outcome.facts.pop("command")
    assert outcome.facts == {"decision": "awaiting approval", "champion": None, "entry": 0, "restored": []}
    assert typed == hints.command("registry", "promote", CANDIDATES, number, "--why", "...")
    assert decisions.names(ws) == [] and list(tracking.registered(ws)) == [CANDIDATES]
    assert [v.number for v in approval.awaiting(ws, CANDIDATES)] == [number]
    _, again = propose("fair")
    assert again.cached and again.facts == outcome.facts | {"command": typed}
    monkeypatch.setenv("MEDMIM_PROMOTER_NAMESPACE", "platform")  # as the chart's settings have it
    assert propose("fair")[1].facts["command"] == f"{typed} --on-cluster --namespace platform"
    with pytest.raises(Refused) as error:
        propose("blind")
    assert error.value.exit_code == REFUSED and "+0.0 points" in str(error.value)
    refused = lookup.find(ws, CANDIDATES, digest_of("blind"))
    assert refused is not None and "+0.0 points" in retired.reason(refused)
    with pytest.raises(UserError, match="is retired"):
        promote.promote(ws, CANDIDATES, refused.number, "all the same")
    assert [v.number for v in approval.awaiting(ws, CANDIDATES)] == [number] and decisions.names(ws) == []


def test_a_promoter_writes_the_candidate_anew_with_its_lineage_and_the_gates_evidence(
    ws: Workspace, propose: Callable[..., Any]
) -> None:
    number, _ = propose("fair")
    entry = promote.promote(ws, CANDIDATES, number, "looked at twenty answers", who="somebody")
    (log,) = decisions.read(ws, NAME)
    assert entry == log and (log.verdict, log.digest, log.who) == ("promoted", digest_of("fair"), "somebody")
    assert log.evidence and gate.read(ws, log.evidence_uri)["candidate"] == log.digest and log.bench
    copied = lookup.get_version(ws, NAME, entry.version)
    assert copied.tags[lookup.URI] == log.uri == model(ws, "fair").uri and copied.tags[lookup.BENCH] == log.bench
    assert tracking.registered(ws)[NAME].aliases == {"champion": entry.version, "challenger": entry.version}
    assert approval.awaiting(ws, CANDIDATES) == []
    assert promote.promote(ws, CANDIDATES, number, "again") == entry  # and no second copy
    assert len(tracking.registered(ws)[NAME].versions) == 1
    _, outcome = propose("fair")
    assert outcome.facts["decision"] == "kept" and outcome.facts["champion"]["version"] == entry.version
    assert aliases.drift(ws, NAME) == []


def test_a_person_promotes_by_the_step_of_kfps_pages_and_the_log_says_that_the_name_was_typed(
    ws: Workspace, propose: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from components.approve import approve

    number, _ = propose("fair")
    for name in ("MEDMIM_STAGE", "OMP_WAIT_POLICY"):  # which the step sets
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("KFP_POD_NAME", "a-pod")
    monkeypatch.delenv("MEDMIM_USER", raising=False)
    given = {"home": str(ws.home), "name": CANDIDATES, "version": number, "why": "I looked at it", "who": "Anna"}
    for wrong in ({"who": " "}, {"who": "medmim"}, {"who": "root"}, {"why": "$(WHY)"}, {"version": "9"}):
        with pytest.raises(SystemExit) as ended:
            approve.python_func(**(given | wrong))
        assert ended.value.code == 2 and decisions.names(ws) == []
    assert approve.python_func(**given) == "1"
    (entry,) = decisions.read(ws, NAME)
    assert (entry.who, entry.why, entry.digest) == ("Anna (typed in KFP)", "I looked at it", digest_of("fair"))
    assert approve.python_func(**given) == "1" and len(decisions.read(ws, NAME)) == 1


def test_evidence_against_a_former_champion_does_not_enter_the_log(ws: Workspace, propose: Callable[..., Any]) -> None:
    (first, _), (second, _) = propose("fair"), propose("good")
    promote.promote(ws, CANDIDATES, first, "first")
    late = promote.promote(ws, CANDIDATES, second, "I know that it was not benched against the first")
    assert (late.verdict, late.evidence, late.digest) == ("promoted", "", digest_of("good"))


def test_what_was_rolled_back_is_not_proposed_again_on_the_same_evidence(
    ws: Workspace, propose: Callable[..., Any]
) -> None:
    first, _ = propose("fair")
    promote.promote(ws, CANDIDATES, first, "first")
    second, _ = propose("good")
    promote.promote(ws, CANDIDATES, second, "second")
    promote.rollback(ws, NAME, "it hallucinates")
    with pytest.raises(Refused, match="not promoted again"):
        propose("good")


def test_promoting_without_a_reason_copies_nothing(ws: Workspace, propose: Callable[..., Any]) -> None:
    number, _ = propose("fair")
    with pytest.raises(UserError, match="needs its reason"):
        promote.promote(ws, CANDIDATES, number, " ")
    assert list(tracking.registered(ws)) == [CANDIDATES]


def code_of(ws: Workspace, logged: str) -> Path:
    """The code of a logged model, which MLflow runs where a version is loaded."""
    (found,) = (path for path in (ws.home / "mlflow").rglob("pyfunc_model.py") if logged in path.parts)
    return found


def test_production_holds_nothing_of_the_candidates_files_and_what_was_copied_by_earlier_versions_is_replaced(
    ws: Workspace, guarded: Recipe, propose: Callable[..., Any], scored: Callable[..., Any]
) -> None:
    api = tracking.client(ws)
    scores, made = scored(ws, "fair"), model(ws, "fair")
    data = json.loads(store.read_file(scores, "scores.json"))["data"]
    registered = register.run(guarded, ws, f"{ws.store}/data/{data}", made.uri, scores.uri).facts["version"]
    copied = api.copy_model_version(f"models:/{CANDIDATES}/{registered}", NAME)  # as up to 0.1.0
    decisions.append(ws, NAME, lambda _: Decision("promoted", str(copied.version), made.digest, made.uri))
    api.set_registered_model_alias(NAME, "champion", copied.version)
    api.create_experiment(f"{NAME}-promoted")  # by whoever was faster

    candidate = api.get_model_version(CANDIDATES, registered)
    theirs = candidate.tags[lookup.LOGGED]
    code_of(ws, theirs).write_text("raise SystemExit('a step was here')")
    assert promote.promote(ws, CANDIDATES, registered, "its files are the candidate's").n == 1, "it is champion already"
    own = api.get_model_version_by_alias(NAME, "champion")
    ours = own.tags[lookup.LOGGED]
    assert own.version != copied.version and ours != theirs and ours in own.source
    assert code_of(ws, ours).read_bytes() == Path(register.__file__).with_name("pyfunc_model.py").read_bytes()
    kept = {key: value for key, value in candidate.tags.items() if key in register.LINEAGE}
    assert kept.items() <= own.tags.items() and own.tags["medmim.recipe_name"] == "demo"
    experiment = api.get_logged_model(ours).experiment_id
    assert experiment == api.get_registered_model(NAME).tags[approval.EXPERIMENT]
    assert api.get_experiment(experiment).name.startswith(f"{NAME}-promoted-")

    number, _ = propose("good")
    entry = promote.promote(ws, CANDIDATES, number, "better")
    second = api.get_model_version(NAME, entry.version)
    assert api.get_logged_model(second.tags[lookup.LOGGED]).experiment_id == experiment, "one experiment for all"
    promote.rollback(ws, NAME, "worse")
    assert api.get_model_version_by_alias(NAME, "champion").version == own.version, "and not the copy"


def test_a_forged_candidate_changes_nothing_until_a_person_says_so(
    ws: Workspace, propose: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Refused):
        propose("blind")
    api, place = tracking.client(ws), open_store(ws.store)
    (version,) = tracking.registered(ws)[CANDIDATES].versions
    real = gate.read(ws, version.tags[approval.EVIDENCE])
    (ws.home / "forged").mkdir()
    (ws.home / "forged" / gate.FILE).write_text(gate.text(real | {"decision": "promoted"}))
    forged = store.publish(ws.home / "forged", ws.store, "decision", {}, {})
    tags = {approval.VERDICT: "promoted", approval.EVIDENCE: forged.uri}
    for key, value in tags.items():
        api.set_model_version_tag(CANDIDATES, version.number, key, value)
    for key in (retired.RETIRED, retired.WHY):
        api.delete_model_version_tag(CANDIDATES, version.number, key)
    with pytest.raises(Refused, match="the evidence of version 1 .* does not hold") as caught:
        promote.promote(ws, CANDIDATES, version.number, "it passed")
    assert any("+0.0 points over base" in problem for problem in caught.value.problems)
    place.delete(f"model/{digest_of('blind')}/manifest.json")
    with pytest.raises(UserError, match="does not exist"):
        promote.promote(ws, CANDIDATES, version.number, "it passed", despite_gate=True)
    assert decisions.names(ws) == [] and list(tracking.registered(ws)) == [CANDIDATES]
    model(ws, "blind")
    entry = promote.promote(ws, CANDIDATES, version.number, "I know it", despite_gate=True)
    assert entry.why == "I know it (although no evidence of the gate was looked at)" and not entry.evidence
    assert "promoting by hand" in capsys.readouterr().err


# With the credentials of a step


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server with basic authentication and the users `step` and `promoter`."""
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    folder = tmp_path_factory.mktemp("auth")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\nadmin_username = root\n"
        "admin_password = root-password-12\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environment = os.environ | {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": uuid.uuid4().hex,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    where = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    with (folder / "log").open("w") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1"]
            + ["--port", str(port), "--workers", "1", *where],
            env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except OSError:
                assert child.poll() is None, (folder / "log").read_text()[-2000:]
                time.sleep(0.5)
        with pytest.MonkeyPatch.context() as patch:
            act_as(patch, "root", "root-password-12")
            import mlflow.server

            users = mlflow.server.get_app_client("basic-auth", tracking_uri=address)
            for user in ("step", "promoter"):
                users.create_user(user, f"{user}-password-12")
        yield address
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(30)


def act_as(patch: pytest.MonkeyPatch, user: str, password: str = "") -> None:
    patch.setenv("MLFLOW_TRACKING_USERNAME", user)
    patch.setenv("MLFLOW_TRACKING_PASSWORD", password or f"{user}-password-12")


@pytest.mark.slow  # MLflow hashes the password at each request; the chart's test asks a server for the same rights
@pytest.mark.timeout(600)
def test_a_steps_mlflow_user_writes_candidates_and_changes_no_champion(
    server: str, ws: Workspace, guarded: Recipe, scored: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few requests: the server hashes a password for each, which takes up to a second."""
    from mlflow.exceptions import MlflowException

    ws = replace(ws, tracking=server)
    act_as(monkeypatch, "promoter")
    api = tracking.client(ws)
    before, old = add(ws, "fair", NAME), model(ws, "fair")
    decisions.append(ws, NAME, lambda log: Decision("promoted", before, old.digest, old.uri))
    api.set_registered_model_alias(NAME, "champion", before)

    act_as(monkeypatch, "step")
    number = add(ws, "good")
    benched = scored(ws, "good", "fair")
    facts = promote.run(guarded, ws, number, gate.run(guarded, ws, benched.uri).uri).facts
    assert facts["decision"] == "awaiting approval" and facts["champion"]["version"] == before
    denied: dict[str, Callable[[], Any]] = {
        "set": lambda: api.set_registered_model_alias(NAME, "champion", before),
        "unset": lambda: api.delete_registered_model_alias(NAME, "champion"),
        "add": lambda: api.create_model_version(NAME, source=f"models:/{CANDIDATES}/{number}"),
        "copy": lambda: api.copy_model_version(f"models:/{CANDIDATES}/{number}", NAME),
        "retag": lambda: api.set_model_version_tag(NAME, before, lookup.URI, "s3://another"),
        "delete version": lambda: api.delete_model_version(NAME, before),
        "delete": lambda: api.delete_registered_model(NAME),
        "rename": lambda: api.rename_registered_model(NAME, "gone"),
    }
    for what, call in denied.items():
        with pytest.raises(MlflowException) as error:
            call()
        assert error.value.get_http_status_code() == 403 or "403" in str(error.value), what  # a copy wraps it
    held = tracking.registered(ws, NAME)[NAME]
    assert held.aliases == {"champion": before}
    assert [v.tags[lookup.DIGEST] for v in held.versions] == [old.digest]

    act_as(monkeypatch, "promoter")
    entry = promote.promote(ws, CANDIDATES, number, "a person looked")
    assert tracking.registered(ws, NAME)[NAME].aliases["champion"] == entry.version != before
    assert entry.evidence and entry.digest == digest_of("good")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_step_that_took_the_production_name_first_gets_no_code_of_its_own_promoted(
    server: str, ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    act_as(monkeypatch, "step")
    ws, name = replace(ws, tracking=server), "taken"
    api, good = tracking.client(ws), model(ws, "good")
    number = add(ws, "good", f"{name}-candidate")
    api.create_registered_model(name)
    lineage = {lookup.DIGEST: good.digest, lookup.URI: good.uri}
    run = api.create_run(api.create_experiment(name)).info.run_id
    register.add_version(api, ws, name, run, lineage, Bench.model_validate({}), {})
    (theirs,) = tracking.registered(ws, name)[name].versions

    import mlflow.server

    users: Any = mlflow.server.get_app_client("basic-auth", tracking_uri=server)
    for whose in (
        "this user has no MANAGE on it",
        "no promotion made it, and whoever did can have given this user MANAGE",
        "user step may write it, too",
    ):
        act_as(monkeypatch, *(("root", "root-password-12") if "step" in whose else ("promoter",)))
        for asked, version in ((f"{name}-candidate", number), (name, theirs.number)):
            with pytest.raises(UserError, match="is not the promoter's alone") as caught:
                promote.promote(ws, asked, version, "it has the right digest", despite_gate=True)
            assert whose in caught.value.reason
        if whose.startswith("this user"):
            act_as(monkeypatch, "step")
            users.grant_user_permission("promoter", "registered_model", name, "MANAGE")
    assert decisions.names(ws) == [], "nothing is decided about what others can change"

    act_as(monkeypatch, "root", "root-password-12")
    for user in ("step", "promoter"):
        users.revoke_user_permission(user, "registered_model", name)
    assert promote.promote(ws, name, theirs.number, "the name is nobody's by now").version != theirs.number
    ours = lookup.get_version(ws, name, tracking.registered(ws, name)[name].aliases["champion"])
    assert api.get_run(ours.run).info.experiment_id != api.get_run(theirs.run).info.experiment_id

    api.rename_registered_model(name, "moved")
    act_as(monkeypatch, "promoter")
    another = replace(ws, store=f"{ws.store}-another")
    model(another, "good")
    for _ in range(2):  # once made by a promotion, it is the promoter's
        assert promote.promote(another, f"{name}-candidate", number, "a person looked", despite_gate=True).n == 1


def test_a_steps_s3_user_publishes_and_writes_no_decision(
    as_user: Callable[[str], str], ws: Workspace, tmp_path: Path
) -> None:
    ws = replace(ws, store=as_user("promoter"))
    add(ws, "first", NAME)
    add(ws, "second", NAME)
    promote.promote(ws, NAME, "1", "start")

    as_user("step")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "weights").write_text("w")
    made = store.publish(tmp_path / "made", ws.store, "model", {}, {})
    assert store.publish(tmp_path / "made", ws.store, "model", {}, {}) == made
    place = open_store(ws.store)
    place.write("runs/r/data.json", b"{}")
    place.write("resume/x/1", b"")
    place.delete("resume/x/1")
    (first,) = decisions.read(ws, NAME)  # it may read
    assert first.version == "1"
    denied: dict[str, Callable[[], Any]] = {
        "promote": lambda: promote.promote(ws, NAME, "2", "a step says so"),
        "roll back": lambda: place.create(f"decisions/{NAME}/2.json", b"{}"),
        "rewrite": lambda: place.write(f"decisions/{NAME}/1.json", b"{}"),
        "forget": lambda: place.delete(f"decisions/{NAME}/1.json"),
        "another log": lambda: place.write("decisions/other/1.json", b"{}"),
        "undo an erasure": lambda: place.write("erased/list.json", b"{}"),
        "delete a model": lambda: place.delete(f"model/{made.digest}/manifest.json"),
    }
    for what, call in denied.items():
        with pytest.raises(UserError, match="refuses access") as error:
            call()
        assert "AccessDenied" in str(error.value), what
    assert decisions.read(ws, NAME) == [first] and store.find(made.uri)

    as_user("promoter")
    assert promote.promote(ws, NAME, "2", "a person looked").n == 2
