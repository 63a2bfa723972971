"""What tests of the pages share: a parser that sees what a browser would load."""

import base64
import re
from html.parser import HTMLParser

REFERENCES = {"src", "srcset", "href", "xlink:href", "data", "poster", "action", "background"}
VOID = {"meta", "img", "br"}
LIMIT = 2_000_000  # bytes of a page


class Page(HTMLParser):
    """A page's text and figures; every tag must be closed in turn, nothing may be loaded from outside.

    Attributes:
        text: All text, titles and styles included.
        images: Addresses of the embedded images.
        titles: What shows where the mouse rests on a mark of a figure.
        figures: How many there are.
        files: Name -> text of the tables that it offers for download.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.images, self.titles, self.figures = "", list[str](), list[str](), 0
        self.files: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []
        assert len(html.encode()) < LIMIT
        assert not re.search(r"url\(|@import", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        for name, value in attrs:
            assert not name.startswith("on") and "url(" not in str(value), f"{name}={value}"
            if tag == "a" and "download" in dict(attrs):
                assert name == "download" or str(value).startswith("data:text/csv;charset=utf-8;base64,")
                if name == "href":
                    self.files[str(dict(attrs)["download"])] = base64.b64decode(str(value).partition(",")[2]).decode()
            elif name in REFERENCES:
                assert tag == "img" and str(value).startswith("data:image/"), f"{tag} {name}={value}"
                self.images.append(str(value))
        self.figures += tag == "svg"
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"{tag} at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open[-1:] == ["title"] and "svg" in self._open:
            self.titles.append(data)
