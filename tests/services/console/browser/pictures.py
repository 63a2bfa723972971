"""Write the pictures of docs/console.md: the pages of a finished demo.

python -m tests.services.console.browser.pictures HOME
"""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from medmim.run.workspace import workspace
from tests.support.console import TOKEN, serving

FOLDER = Path(__file__).parents[4] / "docs" / "console"
HEIGHT = 860  # px of a picture; 1280 wide


def first(page: Page, begin: str) -> str:
    """Where the first link of the page leads that begins so."""
    found = page.locator(f"main a[href^='{begin}']").first.get_attribute("href")
    assert found, begin
    return found


def main(home: Path) -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as engine:
        tokens = Path(folder) / "tokens"
        tokens.write_text(f"anna {TOKEN}\n", encoding="utf-8")
        browser = engine.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        with serving(workspace(home), tokens) as url:
            pages = {scheme: browser.new_page(viewport={"width": 1280, "height": HEIGHT}, color_scheme=scheme)
                     for scheme in ("light", "dark")}  # fmt: skip
            for page in pages.values():
                page.goto(f"{url}/login")
                page.get_by_label("Token").fill(TOKEN)
                page.get_by_role("button", name="Log in").click()
            light, dark = pages["light"], pages["dark"]

            def taken(page: Page, name: str, path: str) -> None:
                page.goto(url + path)
                page.wait_for_timeout(3000)  # images and figures that come once they are in view
                page.screenshot(path=FOLDER / f"{name}.png")

            light.goto(f"{url}/items")
            light.locator("main a[href^='/items/']").first.wait_for(timeout=60_000)  # its index is made
            item = first(light, "/items/")
            light.goto(f"{url}/leaderboard")
            taken(light, "leaderboard", first(light, "/leaderboard/"))
            taken(dark, "item", item)
            light.goto(f"{url}/models")
            light.locator("main a[href^='/models/']").first.wait_for(timeout=60_000)  # MLflow is being started
            model = first(light, "/models/")
            light.goto(url + model)
            taken(light, "version", first(light, f"{model}/"))
            light.goto(f"{url}/runs")
            taken(dark, "run", first(light, "/runs/"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
