"""A store in an S3 bucket, by the `minio` client: MinIO, AWS or any server that speaks S3.

The endpoint is AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or MINIO_ENDPOINT, else AWS itself; the region is AWS_REGION or
AWS_DEFAULT_REGION, else the bucket's. Credentials come from the environment, the AWS configuration file, or the role
of the pod or machine.
"""

import errno
import os
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

import certifi
import urllib3
from minio import Minio
from minio.credentials import AWSConfigProvider, ChainedProvider, EnvAWSProvider, EnvMinioProvider, IamAwsProvider
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    wait_exponential_jitter,
)
from urllib3.exceptions import HTTPError

from medmim.errors import Unavailable, UserError, from_os_error, patience
from medmim.progress import say
from medmim.store.folder import check_key, write_atomically

_CHUNK = 1 << 20
_TRIES = 4  # and more while there is patience
_MULTIPART = 16 << 20  # bytes in one part of a large upload
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MINIO_ENDPOINT")


T = TypeVar("T")
_PLAIN = "HTTP request to an HTTPS server"  # what servers answer who are asked in the wrong scheme


class S3Store:
    """A store below a prefix of a bucket. Reached through `connect`, which keeps one for each address."""

    def __init__(self, uri: str) -> None:
        self.bucket, _, prefix = uri.removeprefix("s3://").rstrip("/").partition("/")
        self.prefix = f"{prefix}/" if prefix else ""
        self.uri = uri.rstrip("/")
        if prefix:
            check_key(prefix)
        found = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "https://s3.amazonaws.com")
        self.endpoint = found if "://" in found else f"https://{found}"
        self._http = urllib3.PoolManager(
            maxsize=32,
            timeout=urllib3.Timeout(connect=3, read=60),
            retries=False,  # tenacity repeats the whole operation, a broken download too
            ca_certs=_authorities(),
        )
        try:
            address = urlsplit(self.endpoint)
            if address.scheme not in ("http", "https") or not address.hostname:
                raise ValueError("it is not http(s)://HOST[:PORT]")
            self._client = Minio(
                endpoint=address.netloc + address.path.rstrip("/"),
                secure=address.scheme != "http",
                region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
                http_client=self._http,
                credentials=_credentials(self.uri),
            )
        except ValueError as error:
            raise UserError(
                f"{self.endpoint} is not the address of an S3 server",
                reason=str(error),
                fix="set AWS_ENDPOINT_URL to http(s)://HOST:PORT",
            ) from None

    def read(self, key: str) -> bytes:
        return self._call(key, lambda name: b"".join(self._stream(name)))

    def write(self, key: str, data: bytes) -> None:
        self._call(key, lambda name: self._client.put_object(self.bucket, name, BytesIO(data), len(data)))

    def create(self, key: str, data: bytes) -> bool:
        tries = 0

        def put(name: str) -> bool:
            nonlocal tries
            tries += 1
            # The client has no argument for a condition; a signed address takes any header.
            url = self._client.presigned_put_object(self.bucket, name, timedelta(minutes=5))
            answer = self._http.request("PUT", url, body=data, headers={"If-None-Match": "*"})
            if answer.status == 412:
                # After a lost answer the object that is there may be ours.
                return tries > 1 and b"".join(self._stream(name)) == data
            if answer.status == 409 or answer.status >= 500:  # 409: two conditional writes met, try again
                raise ServerError(f"server failed with HTTP status code {answer.status}", answer.status)
            if answer.status >= 300:
                raise S3Error.fromxml(answer)
            return True

        return self._call(key, put)

    def upload(self, key: str, path: Path) -> None:
        self._call(key, lambda name: self._client.fput_object(self.bucket, name, str(path), part_size=_MULTIPART))

    def download(self, key: str, path: Path) -> None:
        self._call(key, lambda name: write_atomically(path, self._stream(name)))

    def exists(self, key: str) -> bool:
        try:
            self._call(key, lambda name: self._client.stat_object(self.bucket, name))
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[str]:
        yield from sorted(self.ages(prefix))

    def ages(self, prefix: str = "") -> dict[str, tuple[float, int]]:
        start = self.prefix + prefix
        found = self._call(None, lambda _: list(self._client.list_objects(self.bucket, start, recursive=True)))
        return {f.object_name.removeprefix(self.prefix): (f.last_modified.timestamp(), f.size) for f in found}

    def delete(self, key: str) -> None:
        self._call(key, lambda name: self._client.remove_object(self.bucket, name))

    def _stream(self, name: str) -> Iterator[bytes]:
        answer = self._client.get_object(self.bucket, name)
        try:
            yield from answer.stream(_CHUNK)
        finally:
            answer.close()
            answer.release_conn()

    def _call(self, key: str | None, do: Callable[[str], T]) -> T:
        """Do one operation, again after a failure that may pass, and tell people what failed for good."""
        name = self.prefix + check_key(key) if key is not None else self.prefix
        try:
            return Retrying(
                retry=retry_if_exception(_passing),
                stop=stop_all(stop_after_attempt(_TRIES), stop_after_delay(patience())),
                wait=wait_exponential_jitter(initial=0.2, max=2),
                before_sleep=self._waiting,
                reraise=True,
            )(do, name)
        except S3Error as error:
            raise self._told(error, name) from None
        except (HTTPError, MinioException, ParseError) as error:
            raise self._silent(str(error)) from None
        except OSError as error:
            raise from_os_error(error, f"copying to or from the store {self.uri}") from None
        except ValueError as error:  # the client checks names before it asks
            raise UserError(f"{self.uri} is not the address of a store", reason=str(error)) from None

    def _waiting(self, state: RetryCallState) -> None:
        if state.attempt_number == _TRIES:
            say(f"waiting for the store {self.uri}: {self.endpoint} does not answer")

    def _told(self, error: S3Error, name: str) -> Exception:
        """What the server's answer means to the caller or to people."""
        said = f"{error.code}: {error.message}"
        if error.code == "NoSuchKey":
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"s3://{self.bucket}/{name}")
        if error.code == "NoSuchBucket":
            return UserError(
                f"there is no bucket '{self.bucket}' at {self.endpoint}",
                fix=f"make it (`aws s3 mb s3://{self.bucket}` or `mc mb`), or give another store",
            )
        if error.code == "RequestTimeTooSkewed":
            return UserError(
                f"{self.endpoint} refuses requests of this machine: their clocks differ too much",
                reason=f"{said} This machine says {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC.",
                fix="set the clock of this machine (or node), or of the server: NTP should keep both",
            )
        if error.code in ("AuthorizationHeaderMalformed", "AuthorizationQueryParametersError", "InvalidRegion"):
            return UserError(
                f"{self.endpoint} is not in the region {os.environ.get('AWS_REGION') or 'that was assumed'}",
                reason=said,
                fix="set AWS_REGION to the region that the server names",
            )
        if error.response.status in (401, 403):
            return UserError(
                f"{self.endpoint} refuses access to {self.uri}",
                reason=said,
                fix="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, and the rights that they give",
            )
        if error.response.status == 507:
            return Unavailable(
                f"the disk of {self.endpoint} is full",
                reason=said,
                fix="free some space there, then run the same command",
            )
        if _passing(error):
            return self._silent(said)
        return UserError(f"{self.endpoint} cannot do this with s3://{self.bucket}/{name}", reason=said)

    def _silent(self, reason: str) -> UserError:
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            return UserError(
                f"the certificate of {self.endpoint} is not trusted",
                reason=reason,
                fix="set AWS_CA_BUNDLE to the file of the authority that signed it (in Ray pods: "
                "platform.pods.ca_config_map)",
            )
        if _PLAIN in reason:
            return UserError(
                f"{self.endpoint} speaks https", reason=reason, fix="set AWS_ENDPOINT_URL to https://HOST:PORT"
            )
        return Unavailable(
            f"the store {self.uri} does not answer",
            reason=f"{self.endpoint}: {reason}",
            fix="check AWS_ENDPOINT_URL (http:// or https://), server and network; then run the same command again",
        )


connect = lru_cache(maxsize=16)(S3Store)
os.register_at_fork(after_in_child=connect.cache_clear)  # connections must not be shared between processes


def _passing(error: BaseException) -> bool:
    """Whether the same request may succeed in a moment."""
    if isinstance(error, S3Error):
        return bool(error.response.status >= 500 or error.response.status == 429)
    if "CERTIFICATE_VERIFY_FAILED" in str(error) or _PLAIN in str(error):
        return False
    return isinstance(error, HTTPError | ServerError | InvalidResponseError | ParseError)


def _credentials(uri: str) -> ChainedProvider:
    """The first credentials that are found: environment, configuration file, role of the pod or machine."""
    http = urllib3.PoolManager(timeout=urllib3.Timeout(connect=1, read=5), retries=False, ca_certs=_authorities())
    chain = ChainedProvider(
        [EnvAWSProvider(), EnvMinioProvider(), AWSConfigProvider(), IamAwsProvider(http_client=http)]
    )
    try:
        chain.retrieve()
    except (ValueError, HTTPError, OSError):
        raise UserError(
            f"no credentials for {uri}",
            reason="they are neither in the environment nor in ~/.aws, and this machine has no role",
            fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL for any server but AWS)",
        ) from None
    return chain


def _authorities() -> str:
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        path = os.environ.get(name)
        if path and not Path(path).is_file():
            raise UserError(
                f"{name} is {path}, which is no file",
                reason="it names the certificates that the S3 server is checked against",
                fix=f"give the file of the authority that signed the server's certificate, or unset {name}",
            )
        if path:
            try:
                ssl.create_default_context(cafile=path)
            except ssl.SSLError as error:
                raise UserError(
                    f"{name} is {path}, which holds no certificate",
                    reason=str(error),
                    fix="give a PEM file: `-----BEGIN CERTIFICATE-----` and so on",
                ) from None
            return path
    return certifi.where()
