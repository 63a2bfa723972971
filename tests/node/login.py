"""A login in front of the console, as an ingress controller of nginx asks for it: nginx and an OAuth2 proxy, both real.

They run on this machine, which is the node, so that the console sees them at the bridge's address.
`auth-response-headers` of ingress-nginx is `auth_request_set` with `proxy_set_header`, as below.
"""

import base64
import hashlib
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from string import Template

import httpx
import pytest

from tests.support.waiting import until

HEADER = "X-Auth-Request-User"
HOST = "medmim.localhost"  # a name that Chromium takes for this machine
_NGINX = Template("""
daemon off;
pid $folder/pid;
error_log $folder/error.log;
events {}
http {
  access_log off;
  client_body_temp_path $folder/body;
  proxy_temp_path $folder/proxy;
  fastcgi_temp_path $folder/fastcgi;
  uwsgi_temp_path $folder/uwsgi;
  scgi_temp_path $folder/scgi;
  server {
    listen 127.0.0.1:$port ssl;
    server_name $host;
    ssl_certificate $folder/tls.crt;
    ssl_certificate_key $folder/tls.key;
    proxy_set_header Host $$http_host;
    proxy_set_header X-Forwarded-Proto $$scheme;
    proxy_set_header X-Forwarded-For $$remote_addr;
    location /oauth2/ {
      proxy_pass http://127.0.0.1:$login;
    }
    location = /oauth2/auth {
      internal;
      proxy_pass http://127.0.0.1:$login;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
    }
    location / {
      auth_request /oauth2/auth;
      auth_request_set $$person $$upstream_http_x_auth_request_user;
      error_page 401 = @login;
      proxy_set_header Host $$http_host;
      proxy_set_header X-Forwarded-Proto $$scheme;
      proxy_set_header X-Forwarded-For $$remote_addr;
      proxy_set_header $header $$person;
      proxy_pass http://$console;
    }
    location @login {
      return 302 /oauth2/sign_in?rd=$$request_uri;
    }
  }
}
""")


def need() -> None:
    """Skip the test where one of the two is absent."""
    if missing := [name for name in ("nginx", "oauth2-proxy", "openssl") if shutil.which(name) is None]:
        pytest.skip(
            f"no login: {', '.join(missing)} not on PATH (apt-get install nginx-light; "
            "go install github.com/oauth2-proxy/oauth2-proxy/v7@latest)"
        )


@contextmanager
def before(console: str, folder: Path, passwords: Mapping[str, str]) -> Iterator[str]:
    """The address of a login in front of a console.

    Args:
        console: HOST:PORT of the Service.
        folder: For what the two write.
        passwords: Of people, by their names.
    """
    folder.mkdir()
    folder.chmod(0o755)
    port, login = _free(), _free()
    hashed = {one: base64.b64encode(hashlib.sha1(word.encode()).digest()).decode() for one, word in passwords.items()}  # noqa: S324  htpasswd's
    (folder / "people").write_text("".join(f"{one}:{{SHA}}{word}\n" for one, word in hashed.items()))
    names = {"folder": folder, "port": port, "login": login, "host": HOST, "header": HEADER, "console": console}
    (folder / "nginx.conf").write_text(_NGINX.substitute(names))
    made = ("-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={HOST}")
    files = ("-keyout", folder / "tls.key", "-out", folder / "tls.crt")
    subprocess.run(["openssl", "req", *made, *files], check=True, capture_output=True)
    oauth = [
        "oauth2-proxy", f"--http-address=127.0.0.1:{login}", "--reverse-proxy", "--upstream=static://202",
        f"--htpasswd-file={folder / 'people'}", "--set-xauthrequest", "--email-domain=*",
        "--provider=github", "--client-id=none", "--client-secret=none",  # nobody logs in by it: passwords alone
        f"--cookie-secret={secrets.token_hex(16)}", f"--whitelist-domain={HOST}:{port}",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        started = [subprocess.Popen(oauth, stdout=log, stderr=log)]
        try:
            started.append(subprocess.Popen(["nginx", "-c", folder / "nginx.conf"], stdout=log, stderr=log))
            until(lambda: _answers(port), 30, f"an answer of nginx ({folder / 'log'})")
            yield f"https://{HOST}:{port}"
        finally:
            for one in started:
                one.terminate()
            for one in started:
                one.wait(10)


def _answers(port: int) -> bool:
    try:
        asked = httpx.get(f"https://127.0.0.1:{port}/", headers={"Host": HOST}, verify=False)  # noqa: S501  its own certificate
    except httpx.TransportError:
        return False
    return asked.status_code == 302


def _free() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
