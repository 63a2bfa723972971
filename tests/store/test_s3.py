"""Failures of an S3 store: refused, unreachable, interrupted, answers lost; and the retries."""

import os
import resource
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from medmim.errors import MIN_TRIES, Unavailable, UserError
from medmim.store import Store, open_store
from medmim.store.s3 import connect

if TYPE_CHECKING:
    from tenacity import RetryCallState

OPERATIONS: dict[str, Callable[[Store, Path], object]] = {
    "read": lambda place, path: place.read("key"),
    "write": lambda place, path: place.write("key", b"1"),
    "create": lambda place, path: place.create("key", b"1"),
    "upload": lambda place, path: place.upload("key", Path(__file__)),
    "create from": lambda place, path: place.create_from("key", Path(__file__)),
    "read unchanged": lambda place, path: place.read_unchanged("key"),
    "download": lambda place, path: place.download("key", path / "file"),
    "list": lambda place, path: list(place.list()),
    "delete": lambda place, path: place.delete("key"),
}
each_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "medmim")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "medmim-secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    connect.cache_clear()
    yield
    connect.cache_clear()


class Server:
    """Answers each request with the next of `answers`; the last one is repeated. A body may be cut off."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes, int]] = []
        self.asked: list[str] = []
        self.etag = '"0"'


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture
def server(no_pauses: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    plan = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer takes 40 ms

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            plan.asked.append(f"{self.command} {self.headers.get('If-None-Match', '')}".strip())
            status, body, sent = plan.answers[0]
            if len(plan.answers) > 1:
                plan.answers.pop(0)
            if status:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Type", "application/xml")
                self.send_header("ETag", plan.etag)
                self.send_header("Last-Modified", "Sun, 01 Nov 2026 12:00:00 GMT")
                self.end_headers()
                self.wfile.write(body[:sent] if self.command != "HEAD" else b"")
            self.close_connection = sent < len(body) or not status

        def log_message(self, *args: object) -> None:
            pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listening.server_address[1]}")
        yield plan
        listening.shutdown()


def whole(status: int, body: bytes = b"") -> tuple[int, bytes, int]:
    return status, body, len(body)


LOST = (0, b"", 0)  # the connection closes without an answer


def test_retrying_an_unreachable_server_ends_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    begin = time.monotonic()
    with pytest.raises(Unavailable):
        open_store("s3://bucket/x").read("key")
    assert 1 < time.monotonic() - begin < 8


@each_operation
def test_an_unreachable_server_is_unavailable(
    operation: Callable[[Store, Path], object], tmp_path: Path, no_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(Unavailable, match="s3://bucket/x does not answer") as caught:
        operation(open_store("s3://bucket/x"), tmp_path)
    assert caught.value.exit_code == 75 and "127.0.0.1:1" in caught.value.reason
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "answer", [whole(503), whole(500, b"<html>"), whole(503, b"<Error><Code>SlowDown</Code></Error>")]
)
def test_a_server_that_keeps_failing_is_unavailable(server: Server, answer: tuple[int, bytes, int]) -> None:
    server.answers = [answer]
    with pytest.raises(Unavailable, match="does not answer|does not serve"):
        open_store("s3://bucket").read("key")
    assert len(server.asked) == 4


@pytest.mark.parametrize("failure", [whole(503), LOST, (200, b"content", 3)], ids=["503", "lost", "cut off"])
def test_a_temporary_failure_is_retried(server: Server, tmp_path: Path, failure: tuple[int, bytes, int]) -> None:
    server.answers = [failure, whole(200, b"content")]
    assert open_store("s3://bucket").read("key") == b"content"
    server.answers = [failure, whole(200, b"content")]
    open_store("s3://bucket").download("key", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"content"


def refusal(status: int, code: str, message: str = "said the server") -> tuple[int, bytes, int]:
    """An error as S3 answers it."""
    return whole(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode())


# what AWS, its SDKs' retry rules, MinIO, Ceph, Google and OSS document as worth another try
PASSING = [
    (400, "RequestTimeout"),
    (400, "RequestTimeoutException"),
    (400, "IncompleteBody"),
    (400, "BadDigest"),
    (400, "Throttling"),
    (400, "ThrottlingException"),
    (400, "KMS.ThrottlingException"),
    (400, "RequestThrottledException"),
    (400, "SlowDown"),
    (400, "RequestLimitExceeded"),
    (400, "ProvisionedThroughputExceededException"),
    (400, "PriorRequestNotComplete"),
    (400, "TransactionInProgressException"),
    (400, "ServerNotInitialized"),
    (403, "RequestThrottled"),
    (404, "NoSuchUpload"),
    (408, "RequestTimeout"),
    (409, "OperationAborted"),
    (409, "ConditionalRequestConflict"),
    (425, "TooEarly"),
    (429, "TooManyRequests"),
    (429, "SlowDown"),
    (499, "ClientDisconnected"),
    (503, "SlowDownWrite"),
    (503, "XMinioServerNotInitialized"),
]


@pytest.mark.parametrize(("status", "code"), PASSING)
def test_an_error_that_passes_is_retried_whatever_its_status(
    status: int, code: str, server: Server, tmp_path: Path
) -> None:
    place = open_store("s3://bucket")
    for operation in OPERATIONS.values():
        server.answers = [refusal(status, code), whole(200, b"<ListBucketResult><Name>b</Name></ListBucketResult>")]
        operation(place, tmp_path)
    server.answers, server.asked = [refusal(status, code)], []
    with pytest.raises(Unavailable, match="does not serve the store s3://bucket for now") as caught:
        place.write("key", b"1")
    assert len(server.asked) == 4 and caught.value.reason == f"{code}: said the server"


@pytest.mark.parametrize(
    ("status", "code", "fact", "fix"),
    [
        (400, "ExpiredToken", "the credentials for s3://bucket have expired", "AWS_SESSION_TOKEN"),
        (403, "ExpiredTokenException", "the credentials for s3://bucket have expired", "log in again"),
        (400, "TokenRefreshRequired", "the credentials for s3://bucket have expired", "AWS_ACCESS_KEY_ID"),
        (400, "InvalidToken", "the session token for s3://bucket is not valid", "AWS_SESSION_TOKEN"),
        (403, "RequestTimeTooSkewed", "their clocks differ too much", "NTP"),
        (400, "RequestExpired", "their clocks differ too much", "NTP"),
        (403, "InvalidObjectState", "s3://bucket/key is archived", "restore"),
        (403, "AccessDenied", "refuses access to s3://bucket", "rights"),
        (403, "SignatureDoesNotMatch", "refuses access to s3://bucket", "AWS_SECRET_ACCESS_KEY"),
        (400, "XMinioStorageFull", "there is no space left for the store s3://bucket", "free some space"),
        (507, "XMinioStorageFull", "there is no space left for the store s3://bucket", "free some space"),
        (403, "QuotaExceeded", "there is no space left for the store s3://bucket", "quota"),
        (301, "PermanentRedirect", "not where the bucket 'bucket' is", "AWS_REGION"),
        (307, "TemporaryRedirect", "not where the bucket 'bucket' is", "AWS_ENDPOINT_URL"),
        (400, "IllegalLocationConstraintException", "is not in the region us-east-1", "get-bucket-location"),
        (400, "InvalidBucketName", "'bucket' is no name of a bucket", "3 to 63"),
        (400, "InvalidPartOrder", "refuses an operation on s3://bucket/key", ""),
        (400, "EntityTooLarge", "refuses an operation on s3://bucket/key", ""),
        (501, "NotImplemented", "refuses an operation on s3://bucket/key", ""),
    ],
)
def test_an_error_that_stays_is_bad_input_at_once(status: int, code: str, fact: str, fix: str, server: Server) -> None:
    server.answers = [refusal(status, code)]
    for operation in (lambda place: place.write("key", b"1"), lambda place: place.create("key", b"1")):
        server.asked = []
        with pytest.raises(UserError) as caught:
            operation(open_store("s3://bucket"))
        assert fact in caught.value.fact and fix in caught.value.fix and code in caught.value.reason
        assert (caught.value.exit_code, len(server.asked)) == (2, 1)


def test_a_presigned_request_that_has_expired_is_the_clock(server: Server) -> None:
    server.answers = [refusal(403, "AccessDenied", "Request has expired")]
    with pytest.raises(UserError, match="their clocks differ"):
        open_store("s3://bucket").create("key", b"1")


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([whole(400), refusal(400, "RequestTimeout"), whole(200)], True),
        ([whole(400), whole(200, b"content")], True),
        ([whole(400), whole(200)], True),
        ([whole(400), refusal(404, "NoSuchKey")], False),
        ([whole(404)], False),
        ([whole(200)], True),
    ],
)
def test_a_head_without_a_reason_is_asked_again_with_one(
    answers: list[tuple[int, bytes, int]], found: bool, server: Server
) -> None:
    server.answers = answers
    assert open_store("s3://bucket").exists("key") is found


def test_a_head_that_hides_an_expired_token_names_it(server: Server) -> None:
    server.answers = [whole(400), refusal(400, "ExpiredToken")]
    with pytest.raises(UserError, match="have expired"):
        open_store("s3://bucket").exists("key")


def test_parts_that_are_not_joined_in_spite_of_status_200_are_uploaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * ((16 << 20) + 1))
    started = whole(200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
    part = whole(200)
    server.etag = '"1"'
    joined = whole(200, b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>")
    server.answers = [started, part, part, refusal(200, "InternalError"), started, part, part, joined]
    open_store("s3://bucket").upload("key", tmp_path / "large")
    assert server.asked == ["POST", "PUT", "PUT", "POST"] * 2


def test_a_download_that_always_breaks_off_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.answers = [(200, b"content", 3)]
    with pytest.raises(Unavailable):
        open_store("s3://bucket").download("key", tmp_path / "file")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("stored", "won"), [(b"mine", True), (b"theirs", False)])
def test_after_a_lost_answer_create_knows_whose_object_it_is(server: Server, stored: bytes, won: bool) -> None:
    server.answers = [LOST, whole(412), whole(200, stored)]
    assert open_store("s3://bucket").create("key", b"mine") is won
    assert server.asked == ["PUT *", "PUT *", "GET"]


def test_create_is_one_conditional_put(server: Server) -> None:
    server.answers = [whole(412)]
    assert open_store("s3://bucket").create("key", b"mine") is False
    assert server.asked == ["PUT *"]


def test_a_server_that_is_no_s3_and_redirects_is_bad_input_at_once(server: Server) -> None:
    server.answers = [whole(301, b"<html>Moved</html>")]
    with pytest.raises(UserError, match="is no S3 server") as caught:
        open_store("s3://bucket").read("key")
    assert (caught.value.exit_code, len(server.asked)) == (2, 1) and "AWS_ENDPOINT_URL" in caught.value.fix


@each_operation
def test_a_missing_bucket_is_reported_with_its_fix(
    operation: Callable[[Store, Path], object], bucket: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"there is no bucket '{bucket[5:]}-not' at http") as caught:
        operation(open_store(f"{bucket}-not/x"), tmp_path)
    assert caught.value.exit_code == 2 and "s3 mb" in caught.value.fix


@each_operation
def test_a_wrong_secret_is_refused(
    operation: Callable[[Store, Path], object], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    connect.cache_clear()
    try:
        open_store(bucket).write("probe", b"1")
    except UserError:
        pass
    else:
        pytest.skip("moto takes any secret")
    with pytest.raises(UserError, match="refuses access") as caught:
        operation(open_store(bucket), tmp_path)
    assert caught.value.exit_code == 2 and "AWS_SECRET_ACCESS_KEY" in caught.value.fix


def test_without_credentials_the_variables_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="no credentials for s3://bucket") as caught:
        open_store("s3://bucket")
    assert "AWS_ACCESS_KEY_ID" in caught.value.fix


@pytest.mark.parametrize(
    "endpoint", ["http://", "ftp://host", "http://host/path", "http://[::1", "http://me:XQZJ/X@h:1", "http://me:XQZJ@h"]
)
def test_an_invalid_endpoint_is_bad_input(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(UserError, match="is not the address of an S3 server") as caught:
        open_store("s3://bucket")
    assert caught.value.exit_code == 2 and "XQZJ" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://", "s3:///x", "s3://B_/x", "s3://bucket/a//b", "s3://bucket/../x", "s3://me:XQZJ@bucket/x", "s3://a..b",
        "s3://127.0.0.1/x", "https://me:XQZJ@h/bucket", "s3:me:XQZJ@bucket",
    ],
)  # fmt: skip
def test_an_invalid_address_is_bad_input_before_anything_is_asked(uri: str) -> None:
    with pytest.raises(UserError) as caught:
        open_store(uri)
    assert caught.value.exit_code == 2 and "XQZJ" not in str(caught.value)


def test_an_error_of_the_client_itself_is_not_called_the_address_of_a_store(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = open_store("s3://bucket")

    def fail(*_: object) -> None:
        raise ValueError("of our own")

    monkeypatch.setattr(place, "_stat", fail)
    with pytest.raises(ValueError, match="of our own"):
        place.exists("key")


def test_two_addresses_of_one_bucket_do_not_see_each_other(bucket: str) -> None:
    open_store(f"{bucket}/a").write("key", b"1")
    assert list(open_store(f"{bucket}/b").list()) == [] and list(open_store(bucket).list()) == ["a/key"]
    assert open_store(f"{bucket}/a/") is open_store(f"{bucket}/a/")


def test_a_forked_process_makes_its_own_connections(bucket: str) -> None:
    open_store(bucket).write("key", b"1")
    child = os.fork()
    if child == 0:
        fresh = connect.cache_info().currsize == 0
        os._exit(0 if fresh and open_store(bucket).read("key") == b"1" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_disk_that_fills_up_while_fetching_leaves_nothing(bucket: str, tmp_path: Path) -> None:
    from medmim import store

    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "large").write_bytes(b"x" * 3_000_000)
    artifact = store.publish(tmp_path / "files", bucket, "data", {}, {})
    code = (
        "import sys; from pathlib import Path; from medmim import store, errors\n"
        "try: store.fetch(store.get(sys.argv[1]), Path(sys.argv[2]))\n"
        "except errors.UserError as error: print(error); sys.exit(error.exit_code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, artifact.uri, str(tmp_path / "cache")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2, ended.stderr
    assert "too large while copying" in ended.stdout and not ended.stderr
    assert not list((tmp_path / "cache").iterdir())


def test_a_damaged_local_copy_is_made_anew(bucket: str, tmp_path: Path) -> None:
    from medmim import store

    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "rows").write_bytes(b"rows")
    artifact = store.publish(tmp_path / "files", bucket, "data", {}, {})
    folder = store.fetch(artifact, tmp_path / "cache")
    (folder / "rows").write_bytes(b"bows")
    assert (store.fetch(artifact, tmp_path / "cache") / "rows").read_bytes() == b"rows"
    open_store(bucket).delete(f"data/{artifact.digest}/rows")
    assert (store.fetch(artifact, tmp_path / "cache") / "rows").read_bytes() == b"rows", "the copy is enough"


def test_a_server_that_comes_back_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A real server that is down for twice as many tries as there are without patience."""
    from minio import Minio
    from moto.server import ThreadedMotoServer

    def serve(port: int) -> ThreadedMotoServer:
        made = ThreadedMotoServer("127.0.0.1", port, verbose=False)
        made.start()
        return made

    server = serve(0)
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("MEDMIM_PATIENCE", "60")
    monkeypatch.delenv("MEDMIM_EVENTS", raising=False)
    Minio(f"{host}:{port}", "medmim", "medmim-secret", secure=False, region="us-east-1").make_bucket("bucket")
    place = open_store("s3://bucket/x")
    place.write("key", b"1")
    server.stop()
    back: list[ThreadedMotoServer] = []

    def wait(state: "RetryCallState") -> float:
        if state.attempt_number == 2 * MIN_TRIES:
            back.append(serve(port))
        return 0.0

    monkeypatch.setattr("tenacity.wait_exponential_jitter", lambda **_: wait)
    try:
        assert place.create("other", b"2") and place.read("key") == b"1"
    finally:
        for made in back:
            made.stop()
    assert capfd.readouterr().err.count("waiting for the store s3://bucket/x") == 1


def test_patience_that_is_not_a_number_is_reported(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMIM_PATIENCE", "a while")
    with pytest.raises(UserError, match="MEDMIM_PATIENCE is 'a while'"):
        open_store("s3://bucket").read("key")


def test_a_wrong_region_names_the_variable(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-nowhere-1")
    connect.cache_clear()
    try:
        open_store(bucket).write("key", b"1")
    except UserError as caught:
        assert (caught.exit_code, "eu-nowhere-1" in caught.fact, "AWS_REGION" in caught.fix) == (2, True, True)
    else:
        pytest.skip("moto takes any region")


def test_a_wrong_clock_is_reported(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import minio.time

    now = minio.time.utcnow
    monkeypatch.setattr("minio.time.utcnow", lambda: now() + timedelta(hours=1))
    try:
        open_store(bucket).write("key", b"1")
    except UserError as caught:
        assert caught.exit_code == 2
        assert "clocks differ" in caught.fact and "NTP" in caught.fix
    else:
        pytest.skip("moto takes any time")


@pytest.fixture
def secure(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An S3 server behind TLS with a certificate that it signed itself; the certificate's file."""
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    files = ["-keyout", tmp_path / "key", "-out", tmp_path / "ca.crt", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*make, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.crt", tmp_path / "key")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"value")

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://localhost:{listening.server_address[1]}")
        yield tmp_path / "ca.crt"
        listening.shutdown()


def test_a_certificate_of_an_unknown_authority_is_bad_input_with_the_bundle_as_fix(
    secure: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="is not trusted") as caught:
        open_store("s3://bucket").read("key")
    assert caught.value.exit_code == 2
    assert "AWS_CA_BUNDLE" in caught.value.fix
    monkeypatch.setenv("AWS_CA_BUNDLE", str(secure))
    connect.cache_clear()
    assert open_store("s3://bucket").read("key") == b"value"


def test_a_ca_bundle_that_is_not_a_file_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(empty))
    with pytest.raises(UserError, match="holds no certificate"):
        open_store("s3://bucket/garbage")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none"))
    with pytest.raises(UserError, match="AWS_CA_BUNDLE is .*none, which is not a file"):
        open_store("s3://bucket")
