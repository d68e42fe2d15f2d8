"""JupyterLab in a browser: what a screen reader finds there, and whether a slider and its figure fit one screen."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import websocket

CODE = """import matplotlib.pyplot as plt
from mmlib.notebook import plots, widgets
plots.show(plt.figure(figsize=(3, 2)), "A figure to look at.")
slider = widgets.slide(lambda value: plt.figure(figsize=(9, 9)), ["low", "high"], "height", "low", "A bar.")"""
SEEN = """(() => {
  const handle = document.querySelector("[role=slider]"), images = [...document.querySelectorAll(".jp-OutputArea img")];
  const boxes = [handle, images[1]].map(one => one?.getBoundingClientRect());
  return { images: images.map(one => [one.alt, one.naturalWidth]),
    name: handle?.ariaLabel, value: handle?.ariaValueText,
    height: boxes[1] && boxes[1].bottom - boxes[0].top, window: innerHeight };
})()"""
RUN_ALL = """(() => {
  const shown = [...(window.jupyterapp?.shell.widgets("main") ?? [])].find(one => one.sessionContext?.session?.kernel);
  if (shown) {
    window.jupyterapp.shell.activateById(shown.id);
    window.jupyterapp.commands.execute("notebook:run-all-cells");
  }
  return Boolean(shown);
})()"""
PRESS = """document.querySelector("[role=slider]").dispatchEvent(
  new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }))"""


def until(found: Callable[[], Any], seconds: float = 90) -> Any:
    """What it returns as soon as that is true."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.2)
    return value


@pytest.fixture
def evaluate(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Evaluates JavaScript in a JupyterLab that shows a notebook of `CODE`."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        pytest.skip("no Chromium here (Debian's package is called chromium)")
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    cells = [nbformat.v4.new_code_cell(CODE)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "n.ipynb")
    folders = {name: str(tmp_path / name) for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")}
    lab = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={tmp_path}"]
    lab += ["--ServerApp.port=0", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
    browser = [program, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,720", "about:blank"]
    browser += [f"--user-data-dir={tmp_path / 'profile'}", "--remote-debugging-port=0", "--remote-allow-origins=*"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(lab, env=os.environ | folders, cwd=tmp_path, **quiet)
    window = subprocess.Popen(browser, **quiet)
    try:
        (said,) = until(lambda: list(tmp_path.glob("JUPYTER_RUNTIME_DIR/jpserver-*.json")))
        address = until(lambda: said.read_text() and json.loads(said.read_text()))["url"]
        port = until(lambda: (file := tmp_path / "profile" / "DevToolsActivePort").exists() and file.read_text())
        pages = f"http://localhost:{port.splitlines()[0]}/json"
        (page,) = [one for one in json.load(urllib.request.urlopen(pages)) if one["type"] == "page"]
        connection = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=60)
        numbers = itertools.count()

        def call(method: str, **parameters: Any) -> dict[str, Any]:
            number = next(numbers)
            connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
            while (answer := json.loads(connection.recv())).get("id") != number:
                pass
            return answer["result"]

        call("Page.navigate", url=f"{address}lab/tree/n.ipynb")
        yield lambda code: call("Runtime.evaluate", expression=code, returnByValue=True)["result"].get("value")
        connection.close()
    finally:
        for process in (window, server):
            process.terminate()
            process.wait()


def test_figures_have_alternative_texts_and_sliders_names(evaluate):
    until(lambda: evaluate(RUN_ALL))
    seen = until(lambda: (now := evaluate(SEEN)).get("value") and len(now["images"]) == 2 and now)
    assert seen["images"] == [["A figure to look at.", 270], ["A bar (height: low).", 810]]
    assert (seen["name"], seen["value"]) == ("height", "low")
    assert seen["height"] < 0.85 * seen["window"], "a slider and its figure fit between the tool bar and the end"
    evaluate(PRESS)
    until(lambda: evaluate(SEEN)["images"][1][0] == "A bar (height: high).")
    assert evaluate(SEEN)["value"] == "high"
