"""A real browser for tests, driven by playwright: Chromium, for which no name but this computer's resolves.

Where there is none, the tests that want it are left out, and say what is missing; with CI set they fail.
"""

import contextlib
import functools
import http.server
import os
import shutil
import threading

import pytest
from book_site import missing

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
WIDTHS = {"phone": (390, 844), "desktop": (1366, 900)}
LONG_MS = 60_000  # the longest chapter with a busy computer


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def served(folder):
    """The address at which this computer alone sees a folder."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="session")
def browser():
    """Chromium for which no name but this computer's resolves."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("the browser tests: playwright is not installed (pip install 'hwlimits[book]')")
    if CHROMIUM is None:
        missing("the browser tests: there is no Chromium (on Debian and Ubuntu: apt install chromium)")
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # Chromium asks root for it
    offline = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=[offline, *sandbox])
        yield opened
        opened.close()


class Seen:
    """A page, opened, with all that went wrong on the way and all that it asked for."""

    def __init__(self, browser, url: str, width: str = "desktop"):
        size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
        self.page = browser.new_page(viewport=size, is_mobile=width == "phone")
        self.page.set_default_timeout(LONG_MS)
        self.wrong, self.asked = [], []
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("requestfailed", lambda request: self.wrong.append(f"failed: {request.url}"))
        self.page.on("response", lambda r: self.wrong.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url, wait_until="load")
        if self.page.locator(".math").count():
            self.page.wait_for_function("() => Boolean(window.MathJax?.startup?.promise)")
            self.page.evaluate("() => window.MathJax.startup.promise")
        if self.page.locator("pre.mermaid").count():
            self.page.wait_for_function(
                "() => document.querySelectorAll('pre.mermaid:not([data-processed])').length == 0"
            )
        self.page.wait_for_load_state("networkidle")

    def __enter__(self):
        return self.page

    def __exit__(self, *_):
        self.page.close()
