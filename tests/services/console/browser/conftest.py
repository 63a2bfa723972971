"""The console as its command runs it, in a browser: Debian's Chromium, which `.ci/run` installs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from medmim.run.workspace import Workspace
from tests.support.console import TOKEN, serving, wait_for_mlflow


@pytest.fixture(scope="module")
def url(ws: Workspace, versions: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A console over two registered models."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(f"ann {TOKEN}\nbob {TOKEN}-of-bob\n", encoding="utf-8")
    with serving(ws, tokens) as address:
        wait_for_mlflow(address)
        yield address


@dataclass
class Reader:
    """Somebody at a browser.

    Attributes:
        page: What they see.
        complaints: Of the browser: scripts and styles that its policy refused, and errors of scripts.
    """

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        answer = self.page.goto(self.url + path)
        assert answer is not None
        assert answer.ok, (path, answer.status, self.page.inner_text("body"))
        return self.page

    def log_in(self, token: str = TOKEN) -> None:
        self.open("/login")
        self.page.get_by_label("Token").fill(token)
        self.page.get_by_role("button", name="Log in").click()
        self.page.get_by_role("button", name="log out").wait_for()


@pytest.fixture
def reader(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., Reader]]:
    """Opens a browser of its own for somebody; what a browser complained about fails the test."""
    opened: list[tuple[Reader, Any]] = []

    def make(address: str = "", **settings: Any) -> Reader:
        context = chromium.new_context(**settings)
        page = context.new_page()
        one = Reader(page, address or request.getfixturevalue("url"))
        page.on("pageerror", lambda error: one.complaints.append(str(error)))
        page.on(
            "console",
            lambda said: (
                one.complaints.append(said.text)
                if said.type == "error" and "Failed to load resource" not in said.text  # tests look at the status
                else None
            ),
        )
        opened.append((one, context))
        return one

    yield make
    for one, context in opened:
        context.close()
        assert not one.complaints
