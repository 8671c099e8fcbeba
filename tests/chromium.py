"""A real Chromium before an ASGI application, for the tests of pages."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Error,
    Page,
    ViewportSize,
    sync_playwright,
)

from service import free_port

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def launched() -> Generator[Browser]:
    """A browser; skips where none is installed."""
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield made
        made.close()


@contextlib.contextmanager
def served(api: Any) -> Generator[str]:
    port = free_port()
    config = uvicorn.Config(
        api, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.started
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


@contextlib.contextmanager
def opened(
    browser: Browser, api: Any, *, width: int = 1120, height: int = 760, dark: bool = False
) -> Generator[Page]:
    """The page of `api`; at the end nothing may have been refused by its policy or thrown."""
    with served(api) as url, visited(browser, url, width=width, height=height, dark=dark) as page:
        yield page


@contextlib.contextmanager
def visited(
    browser: Browser,
    url: str,
    path: str = "/",
    *,
    width: int = 1120,
    height: int = 760,
    dark: bool = False,
) -> Generator[Page]:
    """As `opened`, of a service that runs already."""
    context = browser.new_context(
        viewport=ViewportSize(width=width, height=height),
        color_scheme="dark" if dark else "light",
    )
    page = context.new_page()
    page.set_default_timeout(10_000)
    wrong: list[str] = []

    def threw(error: Error) -> None:
        wrong.append(str(error))

    page.on("pageerror", threw)

    def heard(line: ConsoleMessage) -> None:
        if line.type == "error" and "Failed to load resource" not in line.text:
            wrong.append(line.text)

    page.on("console", heard)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url + path)
    try:
        yield page
        assert wrong == []
        there = (url, f"blob:{url}")
        assert [address for address in asked if not address.startswith(there)] == []
    finally:
        context.close()


def say(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")


def keep(page: Page, name: str) -> None:
    """Where KEEP_SCREENSHOTS names a folder, the picture is left there to be looked at."""
    folder = os.environ.get("KEEP_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / name)
