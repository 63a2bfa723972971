"""The connection to an S3 server: endpoint, region, credentials and certificates, from the environment.

The endpoint is AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or MINIO_ENDPOINT, else AWS itself; the region is AWS_REGION or
AWS_DEFAULT_REGION, else the bucket's. Credentials come from the environment, the AWS configuration file, or the role
of the pod or machine.
"""

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
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
    """A client of the server, and the pool of connections that it uses, for requests that the client cannot make."""

    endpoint: str
    client: Minio
    http: urllib3.PoolManager


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
        client = Minio(
            endpoint=address.netloc + address.path.rstrip("/"),
            secure=address.scheme != "http",
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
            http_client=http,
            credentials=_credentials(store_uri),
        )
    except ValueError as error:
        raise UserError(
            f"{shown(endpoint)} is not the address of an S3 server",
            reason=hidden(str(error), endpoint),
            fix="set AWS_ENDPOINT_URL to http(s)://HOST:PORT",
        ) from None
    return Connection(endpoint, client, http)


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
