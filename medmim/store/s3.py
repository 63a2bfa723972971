"""A store in an S3 bucket (upload, download, list, delete), by the `minio` client: MinIO, AWS or any S3 server.

Every operation is retried after a temporary failure, and what the server refuses becomes a UserError.
"""

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote_plus
from xml.etree import ElementTree
from xml.etree.ElementTree import ParseError

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from minio.helpers import check_bucket_name
from urllib3.exceptions import HTTPError

from medmim.errors import MIN_TRIES, Unavailable, UserError, from_os_error, retrying
from medmim.progress import say
from medmim.redact import shown
from medmim.store.folder import check_key, write_atomically
from medmim.store.s3_client import connection

if TYPE_CHECKING:
    from minio import Minio
    from minio.datatypes import Object
    from tenacity import RetryCallState

_CHUNK = 1 << 20
_SILENCE = 30.0  # s between two reports that the server is waited for
_LISTED = 1000  # in one answer; S3's limit
_MULTIPART = 16 << 20  # bytes in one part of a large upload
_HTTP_TO_HTTPS = "HTTP request to an HTTPS server"  # what HTTPS servers answer to plain HTTP

# What may pass by itself has no status in common: most of these come as 400, 403 or 409. The codes are those of AWS
# (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html), its SDKs' retry rules, MinIO, Ceph and OSS.
_TEMPORARY_STATUS = (408, 425, 429)
_TEMPORARY_CODE = re.compile(
    r"RequestTimeout|PriorRequestNotComplete|OperationAborted|ConditionalRequestConflict|IncompleteBody|BadDigest"
    r"|NoSuchUpload|InvalidPart$|InternalError|InternalFailure|ServiceUnavailable|ServiceFailure|ClientDisconnected"
    r"|TransactionInProgress|NotInitialized|Busy|SlowDown|Thrott|TooManyRequests|ThroughputExceeded|(Request|Rate|Bandwidth|Qps|Traffic)LimitExceeded"
)
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired")
_REDIRECT = re.compile(r"Response code: 30[1278]")  # without S3's own words for it
_FULL = re.compile(r"StorageFull|Quota(Exceeded|Limit)|ExceededQuota|InsufficientCapacity|NotEnoughSpace")
_REGION = (
    "AuthorizationHeaderMalformed", "AuthorizationQueryParametersError", "InvalidRegion", "PermanentRedirect",
    "TemporaryRedirect", "Redirect", "IllegalLocationConstraintException", "InvalidLocationConstraint",
)  # fmt: skip
_CLOCK = ("RequestTimeTooSkewed", "RequestExpired", "RequestNotReadyYet")

T = TypeVar("T")


class S3Store:
    """A store below a prefix of a bucket. Use `connect`, which keeps one for each address."""

    def __init__(self, uri: str) -> None:
        self.bucket, _, prefix = uri.removeprefix("s3://").rstrip("/").partition("/")
        self.prefix = f"{prefix}/" if prefix else ""
        self.uri = uri.rstrip("/")
        if prefix:
            check_key(prefix)
        self._said = -_SILENCE
        connected = connection(shown(self.uri))
        self.endpoint, self._client, self._creating = connected.endpoint, connected.client, connected.creating
        try:
            check_bucket_name(self.bucket, s3_check="amazonaws.com" in self.endpoint)  # as the client does at each use
        except ValueError as error:
            why = "it holds a user or a password: they belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            raise UserError(
                f"{shown(self.uri)} is not the address of a store",
                reason=why if "@" in self.bucket else str(error),
                fix="write s3://BUCKET/PREFIX",
            ) from None

    def read(self, key: str) -> bytes:
        return self._call(key, lambda name: b"".join(self._stream(name)))

    def read_unchanged(self, key: str) -> bytes:
        def get(name: str) -> bytes:
            answer = self._client.get_object(self.bucket, name)
            try:
                data, keeps_versions = bytes(answer.read()), "x-amz-version-id" in answer.headers
            finally:
                answer.close()
                answer.release_conn()
            if keeps_versions and len(self._contents(name)) > 1:
                raise UserError(
                    f"s3://{self.bucket}/{name} was written over",
                    reason="it is created once and never changes, and its versions differ: which one is true is not "
                    "known, since a writer can date a version back",
                    fix="find out who wrote it, and have an administrator remove the wrong versions; or delete it, if "
                    "the step that made it can run again",
                )
            return data

        return self._call(key, get)

    def _contents(self, name: str) -> set[str]:
        """The ETags of an object's versions since it was last deleted."""
        found: set[str] = set()
        after = {"prefix": name, "max-keys": str(_LISTED)}
        while True:
            # The client's own listing puts all marks of a deletion behind all versions.
            listed = self._ask({"versions": "", **after})
            for one in listed:  # the newest of an object comes first, and names are sorted
                kind, text = one.tag.rpartition("}")[2], {part.tag.rpartition("}")[2]: part.text for part in one}
                if kind == "DeleteMarker" or (kind == "Version" and text["Key"] != name):
                    return found
                if kind == "Version":
                    found.add(text["ETag"] or "")
            end = {one.tag.rpartition("}")[2]: one.text or "" for one in listed}
            if end.get("IsTruncated") != "true":
                return found
            after |= {"key-marker": end["NextKeyMarker"], "version-id-marker": end["NextVersionIdMarker"]}

    def write(self, key: str, data: bytes) -> None:
        self._call(key, lambda name: self._client.put_object(self.bucket, name, BytesIO(data), len(data)))

    def create(self, key: str, data: bytes) -> bool:
        tries = 0

        def put(name: str) -> bool:
            nonlocal tries
            tries += 1
            try:
                self._creating.put_object(self.bucket, name, BytesIO(data), len(data))
            except MinioException as error:
                if not _is_there_already(error):
                    raise
                # After a lost answer the object that exists may be ours.
                return tries > 1 and b"".join(self._stream(name)) == data
            return True

        return self._call(key, put)

    def upload(self, key: str, path: Path) -> None:
        self._call(key, lambda name: self._put_file(self._client, name, path))

    def create_from(self, key: str, path: Path) -> bool:
        def put(name: str) -> bool:
            try:
                self._put_file(self._creating, name, path)
            except MinioException as error:
                if not _is_there_already(error):
                    raise
                return False
            return True

        return self._call(key, put)

    def _put_file(self, client: "Minio", name: str, path: Path) -> None:
        done = client.fput_object(self.bucket, name, str(path), part_size=_MULTIPART)
        if not done.etag:  # S3 may fail to join the parts with status 200 and an error in the body
            raise ServerError("the parts of a large file were not joined", 500)

    def download(self, key: str, path: Path) -> None:
        self._call(key, lambda name: write_atomically(path, self._stream(name)))

    def version(self, key: str) -> tuple[int, str]:
        found = self._call(key, self._stat)
        return (found.size or 0, found.etag or "") if found else (0, "")

    def read_range(self, key: str, version: str, start: int, length: int, write: Callable[[int, bytes], None]) -> None:
        same = {"If-Match": f'"{version}"'} if version else None

        def get(name: str) -> int:
            write(0, b"")  # a caller that has given up ends the retries by an exception
            answer = self._client.get_object(self.bucket, name, start, length, request_headers=same)
            at = 0
            try:
                for piece in answer.stream(_CHUNK):
                    if at + len(piece) > length:
                        raise ServerError("more was sent than the range that was asked for", answer.status)
                    write(at, piece)
                    at += len(piece)
            finally:
                answer.close()
                answer.release_conn()
            return at

        if not length:
            self.version(key)
        elif self._call(key, get) < length:
            raise FileNotFoundError(errno.ENOENT, "it is shorter than it was", f"{self.uri}/{key}")

    def exists(self, key: str) -> bool:
        try:
            self._call(key, self._stat)
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[str]:
        yield from sorted(self.ages(prefix))

    def folders(self, prefix: str) -> tuple[str, ...]:
        start = self.prefix + prefix
        found = self._call(None, lambda _: list(self._client.list_objects(self.bucket, start)))
        names = (entry.object_name.removeprefix(start) for entry in found if entry.is_dir)
        return tuple(sorted(name.rstrip("/") for name in names))

    def times(self, prefix: str, name: str) -> dict[str, float]:
        keys = ((key.removeprefix(prefix).split("/"), age) for key, (age, _) in self.ages(prefix).items())
        return {parts[0]: age for parts, age in keys if parts[1:] == [name]}

    def ages(self, prefix: str = "") -> dict[str, tuple[float, int]]:
        found: dict[str, tuple[float, int]] = {}
        asked = {"list-type": "2", "prefix": self.prefix + prefix, "max-keys": str(_LISTED), "encoding-type": "url"}
        while True:
            # The client's own listing takes ten times as long to read an answer: seconds for each 10,000 objects.
            listed = self._call(None, lambda _: self._ask(asked))
            space = listed.tag[: listed.tag.index("}") + 1] if listed.tag.startswith("{") else ""
            quoted, begin = listed.findtext(f"{space}EncodingType") == "url", len(self.prefix)
            key, modified, size = f"{space}Key", f"{space}LastModified", f"{space}Size"
            for one in listed.iterfind(f"{space}Contents"):
                name = one.findtext(key, "")
                if quoted and ("%" in name or "+" in name):
                    name = unquote_plus(name)
                when = datetime.fromisoformat(one.findtext(modified, ""))
                found[name[begin:]] = (when.timestamp(), int(one.findtext(size, "0")))
            if listed.findtext(f"{space}IsTruncated") != "true":
                return found
            asked["continuation-token"] = listed.findtext(f"{space}NextContinuationToken", "")

    def _ask(self, query: dict[str, str]) -> ElementTree.Element:
        answer = self._client._execute("GET", self.bucket, query_params=query)
        return ElementTree.fromstring(answer.data)  # noqa: S314  as the client parses all of this server's answers

    def delete(self, key: str) -> None:
        self._call(key, lambda name: self._client.remove_object(self.bucket, name))

    def _stat(self, name: str) -> "Object | None":
        try:
            return self._client.stat_object(self.bucket, name)
        except S3Error as error:
            if error.response.status != 400:
                raise
            next(self._stream(name), b"")  # a HEAD is answered without a body: a GET says what is wrong
            return None

    def _stream(self, name: str) -> Iterator[bytes]:
        answer = self._client.get_object(self.bucket, name)
        try:
            yield from answer.stream(_CHUNK)
        finally:
            answer.close()
            answer.release_conn()

    def _call(self, key: str | None, operation: Callable[[str], T]) -> T:
        """Run one operation, retry it after a temporary failure, and turn a permanent one into a UserError."""
        name = self.prefix + check_key(key) if key is not None else self.prefix
        try:
            return retrying(_is_temporary, 2, self._report_waiting)(operation, name)
        except S3Error as error:
            raise self._refused(error, name) from None
        except (HTTPError, MinioException, ParseError) as error:
            raise self._unreachable(str(error)) from None
        except OSError as error:
            raise from_os_error(error, f"copying to or from the store {self.uri}") from None

    def _report_waiting(self, state: "RetryCallState") -> None:
        if state.attempt_number == MIN_TRIES and time.monotonic() - self._said > _SILENCE:  # once for all threads
            self._said = time.monotonic()
            say(f"waiting for the store {self.uri}: {self.endpoint} does not answer")

    def _refused(self, error: S3Error, name: str) -> Exception:
        """The error to raise for an S3 error code: FileNotFoundError for a missing object, else a UserError."""
        message = f"{error.code}: {error.message}"
        if error.code in ("NoSuchKey", "PreconditionFailed", "InvalidRange"):  # the latter two: of another content
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"s3://{self.bucket}/{name}")
        if error.code == "NoSuchBucket":
            return UserError(
                f"there is no bucket '{self.bucket}' at {self.endpoint}",
                fix=f"create it (`aws s3 mb s3://{self.bucket}` or `mc mb`), or give another store",
            )
        if error.code in _CLOCK or (error.code == "AccessDenied" and "Request has expired" in message):
            return UserError(
                f"{self.endpoint} refuses requests of this machine: their clocks differ too much",
                reason=f"{message} This machine's clock shows {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC.",
                fix="set the clock of this machine (or node), or of the server: NTP should keep both",
            )
        if error.code in _EXPIRED:
            return UserError(
                f"the credentials for {self.uri} have expired",
                reason=message,
                fix="log in again (such as `aws sso login`) and set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
                "AWS_SESSION_TOKEN to the new ones; then run the same command: finished steps are kept",
            )
        if error.code == "InvalidToken":
            return UserError(
                f"the session token for {self.uri} is not valid",
                reason=message,
                fix="set AWS_SESSION_TOKEN to the one that came with these two keys; unset it where they are permanent",
            )
        if error.code == "InvalidObjectState":
            return UserError(
                f"s3://{self.bucket}/{name} is archived and cannot be read",
                reason=message,
                fix="restore it (`aws s3api restore-object`), and keep the store out of archive storage classes",
            )
        redirected = error.response.status in (301, 302, 307, 308)
        target = error.response.headers.get("location") or error.response.headers.get("x-amz-bucket-region") or ""
        if redirected and not error.code:
            return self._unreachable(f"Response code: {error.response.status}, {shown(target)}")
        if error.code in _REGION or redirected:
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
            return UserError(
                f"{self.endpoint} is not in the region {region or 'that was assumed'}, or not where the bucket "
                f"'{self.bucket}' is",
                reason=f"{message}{f' ({shown(target)})' if target else ''}",
                fix="set AWS_REGION to the region that the server names (`aws s3api get-bucket-location --bucket "
                f"{self.bucket}`), and AWS_ENDPOINT_URL to the address that it names",
            )
        if error.code == "InvalidBucketName":
            return UserError(
                f"'{self.bucket}' is no name of a bucket at {self.endpoint}",
                reason=message,
                fix="write s3://BUCKET/PREFIX; a name has 3 to 63 lower-case letters, digits, dots and hyphens",
            )
        if _FULL.search(error.code or "") or error.response.status == 507:
            return UserError(
                f"there is no space left for the store {self.uri} at {self.endpoint}",
                reason=message,
                fix="free some space there, or have its quota raised; then run the same command: finished steps are "
                "kept",
            )
        if _is_temporary(error):
            return Unavailable(
                f"{self.endpoint} does not serve the store {self.uri} for now",
                reason=message,
                fix="run the same command again: finished steps are kept; MEDMIM_PATIENCE=300 waits longer by itself",
            )
        if error.response.status in (401, 403):
            return UserError(
                f"{self.endpoint} refuses access to {self.uri}",
                reason=message,
                fix="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, and the rights that they give",
            )
        return UserError(f"{self.endpoint} refuses an operation on s3://{self.bucket}/{name}", reason=message)

    def _unreachable(self, reason: str) -> UserError:
        """The error to raise where the server gave no valid answer."""
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            return UserError(
                f"the certificate of {self.endpoint} is not trusted",
                reason=reason,
                fix="set AWS_CA_BUNDLE to the authority's file that signed it (pods: the chart's store.certificate)",
            )
        if _HTTP_TO_HTTPS in reason:
            return UserError(
                f"{self.endpoint} is an https server", reason=reason, fix="set AWS_ENDPOINT_URL to https://HOST:PORT"
            )
        if _REDIRECT.search(reason):
            return UserError(
                f"{self.endpoint} sends requests elsewhere, and is no S3 server",
                reason=reason,
                fix="set AWS_ENDPOINT_URL to the address of the S3 API: https:// where it wants TLS, no web console",
            )
        return Unavailable(
            f"the store {self.uri} does not answer",
            reason=f"{self.endpoint}: {reason}",
            fix="check AWS_ENDPOINT_URL (http:// or https://), server and network; then run the same command again",
        )


connect = lru_cache(maxsize=16)(S3Store)
os.register_at_fork(after_in_child=connect.cache_clear)  # connections must not be shared between processes


def _is_there_already(error: MinioException) -> bool:
    """Whether a conditional write found an object."""
    code = error.code if isinstance(error, S3Error) else ""
    return code == "PreconditionFailed" or "Response code: 412" in str(error)  # some proxies leave out S3's own words


def _is_temporary(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, S3Error):
        status = error.response.status
        if status == 507 or _FULL.search(error.code or ""):
            return False  # a full disk of a server needs a person
        failed = status in _TEMPORARY_STATUS or (status >= 500 and status != 501)  # 501: it cannot do this at all
        return failed or _TEMPORARY_CODE.search(error.code or "") is not None
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text or _HTTP_TO_HTTPS in text or _REDIRECT.search(text):
        return False
    return isinstance(error, HTTPError | ServerError | InvalidResponseError | ParseError)
