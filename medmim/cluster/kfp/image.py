"""An image by its digest, as its registry gives it: a tag may mean another image tomorrow.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#checking-if-content-exists-in-the-registry;
names and logins are docker's own (`docker login`, DOCKER_CONFIG, credential helpers).
"""

import hashlib
import re
from typing import Any

from medmim.errors import Unavailable, UserError, retrying, within
from medmim.progress import waiting_for

_SECONDS = (5, 20)  # to connect, to answer
_LONGEST = 20  # s until no other try begins
_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json",
)  # fmt: skip
_NAME = re.compile(r"[a-z0-9][\w.-]*(:\d+)?(/[\w.-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_VERSION = "org.opencontainers.image.version"
_BY_DIGEST = "name the image by digest: registry/medmim@sha256:... (what a push prints)"


class NotFound(UserError):
    """The registry has no such image."""


def pin(named: str) -> str:
    """The image by digest; one that is named by digest stays as it is, without a request.

    Raises:
        UserError: It is no name of an image, or the registry does not have it or denies access.
        Unavailable: The registry does not answer.
    """
    repository, reference = _split(named)
    if _DIGEST.fullmatch(reference):
        return f"{repository}@{reference}"
    answer = _request("HEAD", named, repository, f"manifests/{reference}")
    digest = answer.headers.get("Docker-Content-Digest", "")
    if not digest:
        body = _request("GET", named, repository, f"manifests/{reference}").content
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if not _DIGEST.fullmatch(digest):
        raise UserError(f"the registry of {named} gives no digest", reason=digest[:100], fix=_BY_DIGEST)
    return f"{repository}@{digest}"


def version_of(pinned: str) -> str:
    """The version of medmim in an image, by its label.

    Raises:
        UserError: It has no such label, or the registry denies access.
    """
    repository, reference = _split(pinned)
    manifest = _request("GET", pinned, repository, f"manifests/{reference}").json()
    if "manifests" in manifest:  # of several platforms, which are one version
        reference = manifest["manifests"][0]["digest"]
        manifest = _request("GET", pinned, repository, f"manifests/{reference}").json()
    try:
        config = _request("GET", pinned, repository, f"blobs/{manifest['config']['digest']}").json()
        return str(config["config"]["Labels"][_VERSION])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{pinned} has no label {_VERSION}") from None


def _split(named: str) -> tuple[str, str]:
    from docker.utils import parse_repository_tag

    if not _NAME.fullmatch(named):
        raise UserError(f"'{named}' is no name of an image", fix=_BY_DIGEST)
    repository, reference = parse_repository_tag(named)
    if "@" in named:  # NAME:TAG@DIGEST: the digest alone decides
        repository, _ = parse_repository_tag(repository)
    return repository, reference or "latest"


def _request(method: str, named: str, repository: str, path: str) -> Any:
    with within(_LONGEST), waiting_for(f"the registry of {named}"):
        return retrying(Unavailable, patient=False)(_once, method, named, repository, path)


def _once(method: str, named: str, repository: str, path: str) -> Any:
    """One request, with a login where the registry requires one."""
    import requests
    from docker import auth, errors

    try:
        registry, name = auth.resolve_repository_name(repository)
        found = auth.load_config().resolve_authconfig(registry) or {}
    except errors.DockerException as error:
        raise UserError(f"{named} is no name of an image", reason=str(error), fix=_BY_DIGEST) from None
    if registry == auth.INDEX_NAME:
        registry, name = "registry-1.docker.io", name if "/" in name else f"library/{name}"
    scheme = "http" if re.match(r"(localhost|127\.\d+\.\d+\.\d+)(:|$)", registry) else "https"
    url, headers = f"{scheme}://{registry}/v2/{name}/{path}", {"Accept": ", ".join(_MANIFESTS)}
    login = {key.lower(): value for key, value in found.items()}  # a file's keys are in lower case, a helper's are not
    user, password = login.get("username"), login.get("password")
    basic = (user, password) if user and password else None
    try:
        answer = requests.request(method, url, headers=headers, timeout=_SECONDS)
        if answer.status_code == 401:
            kind, _, challenge = answer.headers.get("WWW-Authenticate", "").partition(" ")
            if kind.lower() == "bearer":
                headers["Authorization"] = f"Bearer {_token(challenge, name, basic)}"
                basic = None
            answer = requests.request(method, url, headers=headers, auth=basic, timeout=_SECONDS)
    except (requests.RequestException, ValueError, KeyError) as error:
        raise Unavailable(
            f"the registry {registry} of {named} does not answer",
            reason=str(error)[-200:],
            fix=f"check the name; where only the cluster reaches that registry, {_BY_DIGEST}",
        ) from None
    if answer.status_code in (401, 403):
        raise UserError(
            f"the registry {registry} denies access to {named} ({answer.status_code})",
            reason=f"logged in as {user}" if user else "no login",
            fix=f"docker login {registry}; or {_BY_DIGEST}",
        )
    if answer.status_code == 404:
        raise NotFound(
            f"the registry {registry} has no image {named}", fix=f"push it, or correct its name; {_BY_DIGEST}"
        )
    if answer.status_code >= 400:
        raise Unavailable(f"the registry {registry} answers {answer.status_code} for {named}", fix=_BY_DIGEST)
    return answer


def _token(challenge: str, name: str, basic: tuple[str, str] | None) -> str:
    """A token to pull with, from the service that the registry names.

    https://distribution.github.io/distribution/spec/auth/token/
    """
    import requests
    from requests.utils import parse_dict_header

    parameters: dict[str, str] = parse_dict_header(challenge)  # type: ignore[no-untyped-call]
    scope = parameters.get("scope") or f"repository:{name}:pull"
    query = {"service": parameters.get("service", ""), "scope": scope}
    answer = requests.get(parameters["realm"], params=query, auth=basic, timeout=_SECONDS)
    answer.raise_for_status()
    body = answer.json()
    return str(body.get("token") or body["access_token"])
