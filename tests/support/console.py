"""The console in this process, as a browser of a reader or of a promoter sees it."""

import re
from collections.abc import Mapping

from fastapi.testclient import TestClient
from medmim_console import app
from medmim_console.identity import Access
from medmim_console.site import Site

from medmim.run.workspace import Workspace

TOKEN = "a-token-of-a-promoter"


def browser(ws: Workspace, access: Access | None = None, links: Mapping[str, str] | None = None) -> TestClient:
    """Of a reader; `log_in` makes it that of a promoter."""
    known = access or Access(own=("ann", TOKEN))
    made = app.make(Site(ws, known, links=links or {}))
    return TestClient(made, base_url="http://console.test", raise_server_exceptions=False)


def log_in(client: TestClient) -> TestClient:
    assert client.post("/login", data={"token": TOKEN}).status_code == 200
    return client


def csrf(html: str) -> str:
    """Of the forms of a page."""
    found = re.search(r'name="csrf" value="(\w+)"', html)
    assert found, "no form of this page has a CSRF token"
    return found[1]
