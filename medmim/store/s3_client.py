"""The connection to an S3 server: endpoint, region, credentials and certificates, from the environment.

The endpoint is AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or MINIO_ENDPOINT, else AWS itself; the region is AWS_REGION or
AWS_DEFAULT_REGION, else the bucket's. Credentials come from the environment, the AWS configuration file, or the role
of the pod or machine.
"""

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio
from minio.credentials import AWSConfigProvider, ChainedProvider, EnvAWSProvider, EnvMinioProvider, IamAwsProvider
from urllib3.exceptions import HTTPError

from medmim.errors import UserError
from medmim.redact import hidden, shown

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MINIO_ENDPOINT")


@dataclass(frozen=True)
class Connection:
    """Two clients of the server; what `creating` writes, it writes only where nothing is."""

    endpoint: str
    client: Minio
    creating: Minio


class _Creating(Minio):  # type: ignore[misc]  # the client is not typed
    """Adds the condition, which no argument of the client sets, to the request that makes an object, signed with it."""

    def _execute(
        self,
        method: str,
        bucket_name: str | None = None,
        object_name: str | None = None,
        body: bytes | None = None,
        headers: dict[str, Any] | None = None,
        query_params: dict[str, Any] | None = None,
        **more: Any,
    ) -> Any:
        last = (
            "uploadId" in query_params if query_params else False
        )  # of a large object, the request that joins its parts
        if (method == "PUT" and not query_params) or (method == "POST" and last):
            headers = {**(headers or {}), "If-None-Match": "*"}
        return super()._execute(method, bucket_name, object_name, body, headers, query_params, **more)


def connection(store_uri: str) -> Connection:
    """Connect to the server that the environment names. Nothing is sent yet, except to obtain a role's credentials.

    Args:
        store_uri: The store, for error messages.

    Raises:
        UserError: The endpoint is not a URL, there are no credentials, or the CA bundle is not readable.
    """
    configured = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "https://s3.amazonaws.com")
    endpoint = configured if "://" in configured else f"https://{configured}"
    http = urllib3.PoolManager(
        maxsize=32,
        timeout=urllib3.Timeout(connect=3, read=60),
        retries=False,  # tenacity repeats the whole operation, a broken download too
        ca_certs=_ca_bundle(),
    )
    try:
        address = urlsplit(endpoint)
        if "@" in address.netloc:
            raise ValueError(
                "it holds a user or a password: they belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("it is not http(s)://HOST[:PORT]")
        credentials = _credentials(store_uri)
        client, creating = (
            kind(
                endpoint=address.netloc + address.path.rstrip("/"),
                secure=address.scheme != "http",
                region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
                http_client=http,
                credentials=credentials,
            )
            for kind in (Minio, _Creating)
        )
    except ValueError as error:
        raise UserError(
            f"{shown(endpoint)} is not the address of an S3 server",
            reason=hidden(str(error), endpoint),
            fix="set AWS_ENDPOINT_URL to http(s)://HOST:PORT",
        ) from None
    return Connection(endpoint, client, creating)


def _credentials(store_uri: str) -> ChainedProvider:
    """The first credentials found: environment, configuration file, role of the pod or machine."""
    http = urllib3.PoolManager(timeout=urllib3.Timeout(connect=1, read=5), retries=False, ca_certs=_ca_bundle())
    chain = ChainedProvider(
        [EnvAWSProvider(), EnvMinioProvider(), AWSConfigProvider(), IamAwsProvider(http_client=http)]
    )
    try:
        chain.retrieve()
    except (ValueError, HTTPError, OSError):
        raise UserError(
            f"no credentials for {store_uri}",
            reason="they are neither in the environment nor in ~/.aws, and this machine has no role",
            fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL for any server but AWS)",
        ) from None
    return chain


def _ca_bundle() -> str:
    """The file of certificate authorities that the server's certificate is checked against."""
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        path = os.environ.get(name)
        if not path:
            continue
        if not Path(path).is_file():
            raise UserError(
                f"{name} is {path}, which is not a file",
                reason="it names the certificates that the S3 server is checked against",
                fix=f"give the file of the authority that signed the server's certificate, or unset {name}",
            )
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
