"""JupyterLab in a browser: what a screen reader finds there, and notebooks as a student opens, runs, moves and restarts
them."""

import itertools
import json
import os
import re
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

from mmlib.batch import editions, suites

CODE = """import matplotlib.pyplot as plt
from mmlib.notebook import plots, widgets
plots.show(plt.figure(figsize=(3, 2)), "A figure to look at.")
slider = widgets.slide(lambda value: plt.figure(figsize=(9, 9)), ["low", "high"], "height", "low", "A bar.")"""
# Little of everything: what is looked at here is whether things work, not what they find.
FEW = {"seeds": 2, "epochs": 4, "directions": 2, "training_samples": 100}
FEW_SAMPLES = """from mmlib.data.digits import spoken_digits
spoken_digits._PART_SIZES = (0.05, 0.05, 0.05)"""
LECTURERS = ("00_start_here.ipynb", "02_weight_averaging_and_flatness.ipynb", "07_modality_gap_and_gmm.ipynb")
STUDENTS = "03_adaptive_modality_dropout.ipynb"
SMALL = "small.ipynb"

# What the functions below call in the page. Lab renders the cells that are near the screen alone, so a cell is looked
# at after it has been scrolled to.
IN_PAGE = """(() => {
  const app = window.jupyterapp;
  if (![...(app?.shell.widgets("main") ?? [])].length) return false;  // the launcher: Lab is there
  const book = path => [...app.shell.widgets("main")].find(one => one.context?.path === path);
  const cells = path => book(path).content.widgets;
  const area = (path, place) => cells(path)[place].node.querySelector(".jp-Cell-outputArea");
  const outputs = cell => cell.model.type === "code" ? cell.model.outputs.toJSON() : [];
  const views = cell => outputs(cell).filter(one => one.data?.["application/vnd.jupyter.widget-view+json"]);
  const handles = (path, place) => [...area(path, place).querySelectorAll("[role=slider]")];
  const buttons = (path, place) => [...area(path, place).querySelectorAll("button.jupyter-button")];
  window.kit = {
    open: path => { app.commands.execute("docmanager:open", { path }); },
    ready: path => book(path)?.sessionContext?.session?.kernel?.status === "idle",
    inFront: path => {
      app.shell.activateById(book(path).id);
      return app.shell.currentWidget === book(path);
    },
    run: (path, command) => {
      window.kit.ended = { ...window.kit.ended, [path]: false };
      app.commands.execute(command).then(() => { window.kit.ended[path] = true; });
    },
    accept: () => {
      const button = document.querySelector(".jp-Dialog .jp-mod-accept");
      button?.click();
      return Boolean(button);
    },
    began: path => cells(path).some(cell => cell.model.executionState === "running"),
    hasEnded: path => window.kit.ended[path],
    errors: path => cells(path).flatMap(outputs).filter(one => one.output_type === "error").map(one => one.evalue),
    notRun: path => cells(path).filter(cell => cell.model.type === "code" && !cell.model.executionCount).length,
    widgets: path => cells(path).flatMap((cell, place) => views(cell).length ? [place] : []),
    show: (path, place) => {
      book(path).content.activeCellIndex = place;
      book(path).content.scrollToItem(place, "start");
    },
    seen: (path, place) => ({
      alive: handles(path, place).length === views(cells(path)[place]).map(one =>
        one.data["text/plain"].split("Slider(").length - 1).reduce((one, other) => one + other)
        && !/(Loading|Error displaying) widget/.test(area(path, place).textContent),
      sliders: handles(path, place).map(one => ({ name: one.ariaLabel, value: one.ariaValueText,
        more: Number(one.ariaValueNow) < Number(one.ariaValueMax), disabled: Boolean(one.closest("[disabled]")) })),
      buttons: buttons(path, place).map(one => ({ name: one.textContent || one.ariaLabel, disabled: one.disabled })),
      images: [...area(path, place).querySelectorAll("img")].map(one => [one.alt, one.naturalWidth]),
      top: handles(path, place)[0]?.getBoundingClientRect().top, window: innerHeight,
      bottom: [...area(path, place).querySelectorAll("img")].pop()?.getBoundingClientRect().bottom,
    }),
    focus: (path, place, number) => handles(path, place)[number].focus(),
    press: (path, place, number) => buttons(path, place)[number].click(),
  };
  return true;
})()"""


def until(found: Callable[[], Any], seconds: float = 240) -> Any:
    """What it returns as soon as that is true."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)
    return value


class Lab:
    """JupyterLab on a folder, in a browser."""

    def __init__(self, call: Callable[..., dict[str, Any]], folder: Path) -> None:
        self._call, self.folder = call, folder

    def evaluate(self, code: str) -> Any:
        answer = self._call("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def kit(self, name: str, *arguments: Any) -> Any:
        """A function of `IN_PAGE`."""
        return self.evaluate(f"kit.{name}({', '.join(map(json.dumps, arguments))})")

    def key(self, name: str) -> None:
        """A real key: unlike an event of a script, it goes where the focus is, and Lab's own shortcuts see it."""
        code = {"ArrowLeft": 37, "ArrowRight": 39}[name]
        for kind in ("rawKeyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

    def run(self, path: str, command: str) -> None:
        """A command of the menus, for this notebook; `hasEnded` says when it has."""
        until(lambda: self.kit("inFront", path))
        self.kit("run", path, command)

    def shown(self, path: str, place: int) -> dict[str, Any]:
        """What is seen of a cell with widgets, when they, and the figure of a slider, are there."""
        until(lambda: self.kit("inFront", path))

        def scrolled_to() -> Any:
            self.kit("show", path, place)  # until what is above it has found its height, the cell moves on
            now = self.kit("seen", path, place)
            return now["alive"] and (now["images"] or not now["sliders"]) and now

        return until(scrolled_to)

    def after(self, path: str, place: int, do: Callable[[], Any], what: str = "images") -> dict[str, Any]:
        """What is seen of the cell as soon as that has changed something."""
        before = self.kit("seen", path, place)[what]
        do()
        return until(lambda: (now := self.kit("seen", path, place))[what] != before and now)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """In which all notebooks looked at here have been opened, and told to run, side by side."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        pytest.skip("no Chromium here (Debian's package is called chromium)")
    folder, aside = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("lab")
    environment = {name: str(aside / name) for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")}
    (aside / "IPYTHONDIR" / "profile_default" / "startup").mkdir(parents=True)
    (aside / "IPYTHONDIR" / "profile_default" / "startup" / "few.py").write_text(FEW_SAMPLES)
    write_notebooks(folder)
    environment |= {"OMP_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1"}  # several kernels work at once
    server = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={folder}"]
    server += ["--ServerApp.port=0", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
    browser = [program, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,720", "about:blank"]
    browser += [f"--user-data-dir={aside / 'profile'}", "--remote-debugging-port=0", "--remote-allow-origins=*"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(server, env=os.environ | environment, cwd=folder, **quiet)]
    started.append(subprocess.Popen(browser, **quiet))
    try:
        (said,) = until(lambda: list(aside.glob("JUPYTER_RUNTIME_DIR/jpserver-*.json")))
        address = until(lambda: said.read_text() and json.loads(said.read_text()))["url"]
        port = until(lambda: (file := aside / "profile" / "DevToolsActivePort").exists() and file.read_text())
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

        call("Emulation.setFocusEmulationEnabled", enabled=True)  # as in a window that somebody works in
        call("Page.navigate", url=f"{address}lab")
        browsed = Lab(call, folder)
        until(lambda: browsed.evaluate(IN_PAGE))
        for path in (SMALL, STUDENTS, *LECTURERS):
            browsed.kit("open", path)
        for path in (SMALL, STUDENTS, *LECTURERS):
            until(lambda path=path: browsed.kit("ready", path))
            browsed.run(path, "notebook:run-all-cells")
        yield browsed
        connection.close()
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def write_notebooks(folder: Path) -> None:
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    small = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)], metadata=kernel)
    nbformat.write(small, folder / SMALL)
    sources = [suites.NOTEBOOKS / name for name in LECTURERS]
    sources += [path for path in editions.write(folder / "student", solutions=False) if path.name == STUDENTS]
    for source in sources:
        notebook = nbformat.read(source, as_version=4)
        for cell in notebook.cells:
            if "parameters" in cell.metadata.get("tags", []):
                for name, value in FEW.items():
                    cell.source = re.sub(rf"^({name}: \w+) = \S+", rf"\1 = {value}", cell.source, flags=re.M)
        nbformat.write(notebook, folder / source.name)


def has_run_and_is_alive(lab: Lab, path: str, at_most: int | None = None) -> None:
    """Every cell, without an error; every slider, or those of the first so many cells that have some, can be moved, by
    keyboard, there and back, and its figure follows."""
    until(lambda: lab.kit("hasEnded", path))
    assert not lab.kit("errors", path) and not lab.kit("notRun", path)
    cells = [(place, lab.shown(path, place)) for place in lab.kit("widgets", path)]
    with_sliders = [(place, shown) for place, shown in cells if shown["sliders"]][:at_most]
    assert with_sliders
    for place, shown in with_sliders:
        lab.shown(path, place)
        assert shown["bottom"] - shown["top"] < 0.85 * shown["window"], "a slider and its figure fit on one screen"
        for number, slider in enumerate(shown["sliders"]):
            move(lab, path, place, number, slider, follows="images" if not shown["buttons"] else "sliders")
        if shown["buttons"]:
            press(lab, path, place)


def move(lab: Lab, path: str, place: int, number: int, slider: dict[str, Any], follows: str) -> None:
    """One step, and back."""
    assert slider["name"]
    for key in ("ArrowRight", "ArrowLeft") if slider["more"] else ("ArrowLeft", "ArrowRight"):
        until(lambda: not lab.kit("seen", path, place)["sliders"][number]["disabled"])
        lab.kit("focus", path, place, number)
        now = lab.after(path, place, lambda key=key: lab.key(key), follows)
        assert follows == "sliders" or now["sliders"][number]["value"] in now["images"][-1][0]
    assert now["sliders"][number]["value"] == slider["value"]


def press(lab: Lab, path: str, place: int) -> None:
    """The first button starts what changes the figure, the last one ends it; then the first can be pressed again."""
    lab.after(path, place, lambda: lab.kit("press", path, place, 0))
    buttons = lab.kit("seen", path, place)["buttons"]
    assert all(one["name"] for one in buttons)
    lab.kit("press", path, place, len(buttons) - 1)
    until(lambda: not lab.kit("seen", path, place)["buttons"][0]["disabled"])


def test_figures_have_alternative_texts_and_sliders_names(lab):
    until(lambda: lab.kit("hasEnded", SMALL))
    seen = until(lambda: (now := lab.shown(SMALL, 0)) and len(now["images"]) == 2 and now)
    assert seen["images"] == [["A figure to look at.", 270], ["A bar (height: low).", 810]]
    (slider,) = seen["sliders"]
    assert (slider["name"], slider["value"]) == ("height", "low")
    has_run_and_is_alive(lab, SMALL)


@pytest.mark.parametrize("path", [STUDENTS, *LECTURERS])
def test_a_notebook_runs_and_its_sliders_move(lab, path):
    has_run_and_is_alive(lab, path)


def test_a_notebook_runs_again_after_a_restart(lab):
    until(lambda: lab.kit("hasEnded", STUDENTS))
    lab.run(STUDENTS, "notebook:restart-run-all")
    until(lambda: lab.kit("accept"))
    until(lambda: lab.kit("began", STUDENTS))
    has_run_and_is_alive(lab, STUDENTS, at_most=1)
