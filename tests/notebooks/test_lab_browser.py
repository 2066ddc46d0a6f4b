"""JupyterLab in a real browser: `make lab` opens the index, its first link chapter 00, and all cells run and show."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from book_site import ROOT

INDEX, CHAPTER = "chapters/index.ipynb", "chapters/00_start_here.ipynb"
START_S, RUN_S = 120, 900


def command_of_make_lab() -> list[str]:
    """What `make lab` would run in an environment that is set up, word by word."""
    ready = ["-o", "Makefile", "-o", f"{sys.prefix}/.installed", f"INSTALLED={sys.prefix}/.installed"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # this test may be make's
    command = ["make", "--no-print-directory", "-n", "lab", *ready]
    said = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
    return said.strip().splitlines()[-1].split()


@pytest.fixture
def lab(tmp_path):
    """The address that `make lab` opens, with copies of the index and the chapter; it ends with the test."""
    python, *words = command_of_make_lab()
    assert python.endswith("bin/python")
    assert words[:3] == ["-m", "jupyter", "lab"]
    assert words[-1] == f"--LabApp.default_url=/lab/tree/{INDEX}"
    (tmp_path / "chapters").mkdir()
    for path in (INDEX, CHAPTER):
        shutil.copy(ROOT / path, tmp_path / path)
    clear(tmp_path / CHAPTER)
    port = free_port()
    words[3:] = [word for word in words[3:] if word != "--allow-root"]
    options = ["--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=t"]
    options += ["--LabApp.expose_app_in_browser=True", "--LabApp.news_url="]  # it asks nothing of the network
    env = os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_DATA_DIR": str(tmp_path / "data")}
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, *words, *options], cwd=tmp_path, env=env, stdout=log, stderr=log, start_new_session=True
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/api?token=t", server)
        yield f"http://127.0.0.1:{port}/?token=t"  # it goes on to the default
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        log.close()


def free_port() -> int:
    """A port of this computer that nobody listens on."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


def clear(path: Path) -> None:
    """Take the outputs out, so that those which are seen later are new."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)


def wait_for(url: str, server: subprocess.Popen) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url) as answer:
                json.load(answer)
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail("JupyterLab did not start")


@pytest.mark.alone
def test_chapter_00_runs_in_jupyterlab(browser, lab, tmp_path):
    page = browser.new_page(viewport={"width": 1366, "height": 900})
    page.set_default_timeout(START_S * 1000)
    page.goto(lab)
    page.locator(".jp-RenderedMarkdown a", has_text="Start here").first.click()
    page.wait_for_function(
        f"() => window.jupyterapp?.shell.currentWidget?.context?.path == '{CHAPTER}'"
        " && window.jupyterapp.shell.currentWidget.context.isReady"
    )
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status == 'idle'"
    )
    page.set_default_timeout(RUN_S * 1000)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    notebook = nbformat.read(tmp_path / CHAPTER, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert [o for cell in code for o in cell.outputs if o.output_type == "error"] == []
    figures = sum("image/png" in o.get("data", {}) for cell in code for o in cell.outputs)
    assert figures > 0
    # What a reader sees: scrolled into view, a figure is an image with pixels.
    first = next(
        i for i, c in enumerate(notebook.cells) if "image/png" in str([o.get("data") for o in c.get("outputs", [])])
    )
    page.evaluate(f"() => window.jupyterapp.shell.currentWidget.content.scrollToItem({first}, 'center')")
    image = page.locator(".jp-OutputArea-output img").first
    image.wait_for()
    assert image.evaluate("i => i.naturalWidth") > 100
    # Its words are stored with it (the book shows them); JupyterLab's own renderer of images has no place for them.
    stored = [o for o in notebook.cells[first].outputs if "image/png" in o.get("data", {})]
    assert all(re.search(r"\w+ \w+", o.metadata["image/png"]["alt"]) for o in stored)
    page.close()
