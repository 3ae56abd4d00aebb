"""A real browser that looks at the inspector and keeps what goes wrong in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from inspected import lived
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request, sync_playwright

PATIENCE_MS = 60_000
"""For a page on a busy machine; nothing is timed by it."""


class Reader:
    """One tab. What a page complained of, asked other hosts for or popped up is kept until the test ends."""

    def __init__(self, page: Page, base: str) -> None:
        self.page = page
        self.base = base
        self.complaints: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._told)
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", self._asked)
        page.on("request", self._left)

    def open(self, path: str, status: int = 200) -> Page:
        answer = self.page.goto(self.base + path, timeout=PATIENCE_MS)
        assert answer is not None
        assert answer.status == status, f"{path}: {answer.status} {self.text[:400]}"
        return self.page

    @property
    def text(self) -> str:
        return self.page.inner_text("main")

    def _told(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(f"{message.type}: {message.text}")

    def _asked(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _left(self, request: Request) -> None:
        to = urlsplit(request.url)
        if to.scheme not in ("data", "blob", "about") and to.netloc != urlsplit(self.base).netloc:
            self.complaints.append(f"request: {request.url[:200]}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for a module: while it is open no other event loop can run in this thread."""
    chromium = shutil.which("chromium")
    if chromium is None:
        if os.environ.get("EVOLVENT_REQUIRE_BROWSER") == "1":
            pytest.fail("There is no chromium, and EVOLVENT_REQUIRE_BROWSER=1 asks for it: apt install chromium.")
        pytest.skip("no chromium: apt install chromium")  # a real browser is what these tests are about
    args = ["--no-sandbox"] if os.geteuid() == 0 else []  # root's chromium starts with none
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=args)
        yield opened
        opened.close()


@pytest.fixture
def reading(browser: Browser) -> Iterator[Callable[..., Reader]]:
    """`reading(base)` opens a tab; at the end nothing may have gone wrong in any."""
    readers: list[Reader] = []

    def opened(base: str, width: int = 1280, **context: str) -> Reader:
        size = {"width": width, "height": 900}
        readers.append(Reader(browser.new_context(viewport=size, **context).new_page(), base))  # type: ignore[arg-type]  # a TypedDict
        return readers[-1]

    yield opened
    for reader in readers:
        reader.page.context.close()
    assert [each for reader in readers for each in reader.complaints] == []


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real run of two generations, `lived`. Only to be read."""
    folder = tmp_path_factory.mktemp("runs")
    with ThreadPoolExecutor(1) as elsewhere:  # a run has an event loop, and so has the browser in this thread
        elsewhere.submit(lived, folder / "lived").result()
    return folder
