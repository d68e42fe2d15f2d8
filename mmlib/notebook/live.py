"""Live experiments: a slider, a button that trains, and a curve that grows by a point at the end of every epoch.

Training runs in a thread, so that the kernel goes on listening to the buttons. What is shown is drawn in the kernel's
own thread, between its cells: figures are not made for two threads. Nor are torch's random numbers, which a cell may
draw as well: before a cell is run, a training is stopped. Nothing is kept.
"""

import asyncio
import contextlib
import html
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import ipywidgets
import pandas as pd
from IPython import get_ipython
from IPython.display import HTML, display

from mmlib import methods
from mmlib.data.splits import DomainProtocol, Splits
from mmlib.models import build_classifier, evaluate
from mmlib.notebook import plots, widgets
from mmlib.notebook.picture import Picture
from mmlib.seeding import one_thread
from mmlib.training import Diverged, Run, TrainingConfig, fit


@dataclass(eq=False)
class Experiment:
    """A slider called `label`, buttons that train with the chosen value and stop, and what was measured in all that was
    trained here, by epoch. A value that is trained again gets the next seed.

    `setting` turns a value into a run and its data: of each part, at most about 2000 samples. `measure` turns the
    method after an epoch, in eval mode, and these parts into a number, `y_label`. The cell itself rehearses with the
    value `start` and few samples, for print, and raises what is wrong with them (a divergence is a result, and raises
    nothing). An error of a training is written below the buttons.
    """

    setting: Callable[[Any], tuple[Run, Splits]]
    measure: Callable[[methods.Method, DomainProtocol], float]
    config: TrainingConfig
    label: str
    values: Sequence[Any]
    start: Any
    y_label: str
    _thread: ClassVar = threading.Thread()  # of all experiments: one trains at a time
    _stopping: ClassVar = threading.Event()

    def __post_init__(self) -> None:
        self.slider = widgets.slider_over(self.values, self.label, self.start)
        self.train, self.stop = ipywidgets.Button(description="Train"), ipywidgets.Button(description="Stop")
        self.stop.disabled, self.status = True, ipywidgets.HTML("A rehearsal with few samples: press Train.")
        self.epochs, self.curves = min(self.config.epochs, 12), {"rehearsal": []}
        try:
            self._fit(self.start, 0, min(self.epochs, 4), 120, self.curves["rehearsal"].append)
        except Diverged as error:  # a result, which stops no notebook
            self.status.value = str(error)
        with contextlib.suppress(RuntimeError):  # where there is no kernel, nobody presses a button
            self._kernel = asyncio.get_running_loop()
        if shell := get_ipython():
            shell.events.register("pre_run_cell", self._end)
        self.train.on_click(lambda _: self._kernel.call_soon_threadsafe(self._begin))
        self.stop.on_click(lambda _: self._stopping.set())
        display(HTML(widgets.NAMES), ipywidgets.HBox([self.slider, self.train, self.stop]), self.status)
        self._handle = display(self._picture(), display_id=True)

    def _fit(self, value: Any, number: int, epochs: int, samples: int, tell: Callable[[float], None]) -> None:
        run, splits = self.setting(value)
        config, options = replace(run, seed=run.seed + number).configured(self.config)
        config = replace(config, device="cpu", epochs=epochs)
        parts = DomainProtocol(*(part.thinned(samples) for part in run.protocol(splits)))
        model = build_classifier(parts.train.input_shapes, len(parts.train.class_names), config.seed)
        method = methods.build(run.method, model, config.seed, **options)
        more = {"measure": lambda method: tell(float(self.measure(method.eval(), parts))) or {}, "progress": False}
        with one_thread():
            fit(method, parts.train, parts.validation, config, augmentations=splits.augmentations, **more)

    def _begin(self) -> None:
        if self._thread.is_alive():
            self.status.value = "Something is training already."
            return
        name = f"{self.label} = {self.slider.value}"
        number = sum(earlier.split(", seed ")[0] == name for earlier in self.curves)
        name += f", seed {number}" if number else ""
        self.curves.pop("rehearsal", None)
        self.curves[name] = []
        self._stopping.clear()
        self._show(f"{name}: the first of {self.epochs} epochs", True)
        Experiment._thread = threading.Thread(target=self._train, args=(name, self.slider.value, number), daemon=True)
        self._thread.start()

    def _train(self, name: str, value: Any, number: int) -> None:
        def tell(measured: float) -> None:
            self.curves[name].append(measured)
            self._kernel.call_soon_threadsafe(self._show, f"{name}: epoch {len(self.curves[name])}", True)
            if self._stopping.is_set():
                raise asyncio.CancelledError

        try:
            self._fit(value, number, self.epochs, 2000, tell)
            said = f"{name}: done"
        except asyncio.CancelledError:
            said = f"{name}: stopped after epoch {len(self.curves[name])}"
        except Exception:
            said = _error()
        self._kernel.call_soon_threadsafe(self._show, said, False)

    @classmethod  # registered once for all experiments, however often their cells are run
    def _end(cls, *_: object) -> None:
        cls._stopping.set()
        if cls._thread.is_alive():
            cls._thread.join()

    def _show(self, said: str, training: bool) -> None:
        self.train.disabled, self.stop.disabled = training, not training
        try:
            if any(self.curves.values()):
                self._handle.update(self._picture())
        except Exception:
            said = _error()
        self.status.value = f'<div role="status">{said}</div>'

    def _picture(self) -> Picture | HTML:
        drawn = {name: list(points) for name, points in self.curves.items() if points}
        if not drawn:
            return HTML("Nothing to draw yet.")
        lines = {name: pd.DataFrame(points, range(1, len(points) + 1)) for name, points in drawn.items()}
        title = "A rehearsal with few samples" if "rehearsal" in drawn else "Single runs, which decide nothing"
        figure = plots.curves(lines, "epoch", self.y_label, title)
        figure.axes[0].set_xlim(0.9, self.epochs + 0.1)
        ends = [f"{name}: {points[-1]:.3f} after epoch {len(points)}" for name, points in drawn.items()]
        return Picture(figure, f"{self.y_label} by epoch. {'; '.join(ends)}.", height=0.6)


def target_accuracy(method: methods.Method, parts: DomainProtocol) -> float:
    """What the network for the test reaches on the target: something to `measure`."""
    return evaluate(method.predictor, parts.target)["accuracy"]


def _error() -> str:
    return f"<pre>{html.escape(traceback.format_exc())}</pre>"
