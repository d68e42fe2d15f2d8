"""Pure functions from data to figures that a lecture hall can read: large type, colours safe for the colour-blind,
and a line style or hatch besides every colour."""

import io
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from mmlib.data.dataset import MultimodalDataset
from mmlib.equations.mixture import Mixture
from mmlib.instruments.flatness import Plane
from mmlib.training.estimates import Estimate, estimate

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")  # Okabe and Ito
_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "--")
_STYLE = {
    "font.size": 15,
    "axes.titlesize": 16,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 2.5,
    "lines.markersize": 7,
    "hatch.linewidth": 0.6,
    "figure.constrained_layout.use": True,
}


def png(figure: Figure) -> bytes:
    """The figure as PNG; it is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    return buffer.getvalue()


def show(figure: Figure, alt: str, key: bool = False) -> None:
    """Display a figure with a text that says what is to be seen, for those who cannot see it. A batch's page shows
    those figures of a notebook that are called `key`."""
    display(Image(png(figure), format="png", alt=alt, metadata={"key": True} if key else None))


def sample_grid(
    dataset: MultimodalDataset, pictures: MultimodalDataset, label: int | None = None, columns: int = 10
) -> Figure:
    """A row per domain and modality: one sample of each class, or several samples of the class `label`.

    `dataset` holds network inputs (spectrograms), `pictures` the same samples' raw images.
    """
    with plt.rc_context(_STYLE):
        rows = [(domain, name) for domain in range(len(dataset.domain_names)) for name in dataset.modalities]
        figure, axes = plt.subplots(len(rows), columns, figsize=(1.25 * columns, 1.3 * len(rows) + 0.4), squeeze=False)
        for (domain, name), line in zip(rows, axes, strict=True):
            source = pictures if name == "image" else dataset
            for column, axis in enumerate(line):
                wanted, position = (column, 0) if label is None else (label, column)
                matches = ((dataset.domains == domain) & (dataset.labels == wanted)).nonzero().squeeze(1)
                axis.set(xticks=[], yticks=[])
                if position < len(matches):
                    _draw_sample(axis, name, source.inputs[name][matches[position]].cpu().numpy())
                if (domain, name) == rows[0]:
                    axis.set_title(dataset.class_names[wanted], fontsize=14)
            line[0].set_ylabel(f"{dataset.domain_names[domain]}\n{name}", fontsize=12)
        return figure


def samples(
    dataset: MultimodalDataset, pictures: MultimodalDataset, rows: Sequence[int], captions: Sequence[str]
) -> Figure:
    """The samples at these rows side by side, a line per modality, each under its caption. `dataset` and `pictures` as
    in `sample_grid`."""
    with plt.rc_context(_STYLE):
        size = (1.7 * len(rows), 1.7 * len(dataset.modalities) + 0.6)
        figure, axes = plt.subplots(len(dataset.modalities), len(rows), figsize=size, squeeze=False)
        for name, line in zip(dataset.modalities, axes, strict=True):
            source = pictures if name == "image" else dataset
            for axis, row in zip(line, rows, strict=True):
                axis.set(xticks=[], yticks=[])
                _draw_sample(axis, name, source.inputs[name][row].cpu().numpy())
            line[0].set_ylabel(name, fontsize=13)
        for axis, caption in zip(axes[0], captions, strict=True):
            axis.set_title(caption, fontsize=12)
        return figure


def _draw_sample(axis: Axes, modality: str, sample: np.ndarray) -> None:
    if sample.ndim == 4:  # of a video, the middle frame
        sample = sample[:, sample.shape[1] // 2]
    if modality == "audio":
        axis.imshow(sample[0], origin="lower", aspect="auto", cmap="magma")
    elif len(sample) == 1:
        axis.imshow(sample[0], cmap="gray", vmin=0, vmax=1)
    elif len(sample) == 3:
        axis.imshow(np.moveaxis((sample - sample.min()) / max(np.ptp(sample), 1e-6), 0, -1))
    else:
        axis.imshow(np.linalg.norm(sample, axis=0), cmap="viridis")


def _beside_colour(marks: Sequence[object], number: int) -> object:
    """The mark of line or bar `number`: another one where the colours start again, so that no two look alike."""
    return marks[(number + number // len(COLOURS)) % len(marks)]


def curves(
    lines: Mapping[str, pd.DataFrame], x_label: str, y_label: str, title: str = "", axis: Axes | None = None
) -> Figure:
    """Lines with 95 % bands: each frame has x as its index and one column per independent run."""
    with plt.rc_context(_STYLE):
        if axis is None:
            _, axis = plt.subplots(figsize=(8.5, 4.8))
        for number, (label, frame) in enumerate(lines.items()):
            points = [estimate(row) for row in frame.to_numpy()]
            mean = np.array([point.mean for point in points])
            half = np.nan_to_num([point.half_width for point in points])
            colour = COLOURS[number % len(COLOURS)]
            every = max(1, len(frame) // 8)
            axis.plot(
                frame.index,
                mean,
                color=colour,
                linestyle=_beside_colour(_STYLES, number),
                marker=_MARKERS[number % len(_MARKERS)],
                markevery=every,
                label=label,
            )
            axis.fill_between(frame.index, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
        if all(pd.api.types.is_integer_dtype(frame.index) for frame in lines.values()):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set(xlabel=x_label, ylabel=y_label, title=title)
        axis.legend(fontsize=13)
        return axis.figure


def marked_curve(values: pd.Series, at: float, x_label: str, y_label: str, title: str = "") -> Figure:
    """One curve with the point at x = `at` marked and its value beside it: for sliders."""
    figure = curves({str(values.name): values.to_frame()}, x_label, y_label, title)
    with plt.rc_context(_STYLE):
        (axis,) = figure.axes
        axis.get_legend().remove()
        axis.plot(at, values[at], "o", color=COLOURS[1], markersize=15)
        axis.annotate(
            f"{values[at]:.3g}",
            (at, values[at]),
            textcoords="offset points",
            xytext=(-16, 10),
            ha="right",
            fontsize=15,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0},
        )
        axis.margins(y=0.12)
        return figure


def bars(
    groups: Mapping[str, Mapping[str, Estimate]],
    y_label: str,
    title: str = "",
    chance: float | None = None,
    axis: Axes | None = None,
) -> Figure:
    """Grouped bars with 95 % intervals: group (x) → bar → estimate; the value stands above each bar."""
    with plt.rc_context(_STYLE):
        names = list(dict.fromkeys(name for bars_of in groups.values() for name in bars_of))
        if axis is None:
            _, axis = plt.subplots(figsize=(max(8.5, 1.0 * len(groups) * len(names)), 4.8))
        width = 0.8 / len(names)
        for number, name in enumerate(names):
            for place, bars_of in enumerate(groups.values()):
                if name not in bars_of:
                    continue
                value = bars_of[name]
                left = place + (number - (len(names) - 1) / 2) * width
                half = 0 if np.isnan(value.half_width) else value.half_width
                axis.bar(
                    left,
                    value.mean,
                    width * 0.92,
                    yerr=half,
                    capsize=4,
                    color=COLOURS[number % len(COLOURS)],
                    hatch=_beside_colour(_HATCHES, number),
                    edgecolor="white",
                    label=name if place == next(i for i, b in enumerate(groups.values()) if name in b) else None,
                )
                axis.annotate(
                    f"{value.mean:.2f}",
                    (left, value.mean + half),
                    textcoords="offset points",
                    xytext=(0, 3),
                    ha="center",
                    fontsize=12,
                )
        if chance is not None:
            axis.axhline(chance, color="grey", linestyle=":", linewidth=1.5)
            axis.text(
                1.01, chance, "chance", transform=axis.get_yaxis_transform(), va="center", fontsize=12, color="grey"
            )
        axis.set_xticks(range(len(groups)), list(groups))
        axis.set(ylabel=y_label, title=title)
        axis.margins(y=0.12)
        if len(names) > 1:
            axis.legend(fontsize=12, loc="upper left", bbox_to_anchor=(1, 1))
        return axis.figure


def gap_histogram(
    gaps: Mapping[str, Tensor],
    mixture: Mixture | None = None,
    threshold: float | None = None,
    title: str = "",
    x_label: str = "modality gap",
) -> Figure:
    """Stacked histogram of the gaps of up to two named groups of samples (from −1, where any is negative), the
    mixture's components on top, and where its posterior of the imbalanced one crosses `threshold`."""
    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(8.5, 4.8))
        values = [part.cpu().double().numpy() for part in gaps.values()]
        edges = np.linspace(-1.0 if min(part.min() for part in values) < 0 else 0.0, 1, 41)
        base = np.zeros(40)
        for name, part, colour, hatch in zip(gaps, values, ("#BBBBBB", COLOURS[1]), _HATCHES, strict=False):
            counts = np.histogram(part, edges)[0]
            axis.bar(
                edges[:-1],
                counts,
                np.diff(edges),
                base,
                align="edge",
                color=colour,
                hatch=hatch,
                edgecolor="white",
                label=name,
            )
            base = base + counts
        if mixture is not None:
            grid = torch.linspace(0, 1, 401, dtype=torch.float64, device=mixture.means.device)
            lines = mixture.densities(grid).cpu().numpy() * base.sum() * (edges[1] - edges[0])
            for number, line in enumerate(lines):
                colour = (COLOURS[0], COLOURS[3], COLOURS[2])[number]
                axis.plot(grid.cpu(), line, color=colour, linestyle=_STYLES[number])
        if threshold is not None:
            beyond = grid[mixture.posterior(grid) > threshold]
            if len(beyond):
                axis.axvline(float(beyond[0]), color="black", linestyle=":")
        axis.set(xlabel=x_label, ylabel="samples", title=title, ylim=(0, 1.1 * axis.get_ylim()[1]))
        axis.legend(fontsize=12)
        return figure


def embedding(panels: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str = "") -> Figure:
    """Points on a plane, a panel per name: (positions (N, 2), labels (N,)). Each point stands as the number of its
    class, counted from 0, so that colour is not needed to tell classes apart."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 5.5), squeeze=False)
        for axis, (name, (positions, labels)) in zip(axes[0], panels.items(), strict=True):
            for (x, y), label in zip(positions, labels, strict=True):
                colour = plt.get_cmap("tab10")(label % 10)
                axis.text(x, y, str(label), color=colour, fontsize=10, ha="center", va="center")
            axis.set(xlim=_span(positions[:, 0]), ylim=_span(positions[:, 1]), xticks=[], yticks=[], title=name)
        figure.suptitle(title, fontsize=16)
        return figure


def _span(values: np.ndarray) -> tuple[float, float]:
    margin = 0.05 * np.ptp(values)
    return float(values.min() - margin), float(values.max() + margin)


def loss_plane(
    plane: Plane,
    names: Sequence[str],
    title: str = "",
    arrows: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    axes_labels: tuple[str, str] = ("distance in weights", "distance in weights"),
) -> Figure:
    """Filled contours of the loss on a plane (logarithmic levels) with the named positions marked, and arrows given as
    name → (start, vector)."""
    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(7.5, 5.5))
        lowest, highest = np.nanmin(plane.losses), np.nanmax(plane.losses)
        levels = np.geomspace(max(lowest, 1e-6), max(highest, lowest * 1.01, 2e-6), 14)
        filled = axis.contourf(plane.x, plane.y, plane.losses.clip(levels[0]), levels=levels, cmap="cividis_r")
        axis.contour(plane.x, plane.y, plane.losses, levels=levels, colors="white", linewidths=0.4)
        figure.colorbar(filled, label="loss", format="%.2g")
        for number, (name, (start, vector)) in enumerate((arrows or {}).items()):
            axis.quiver(
                *start,
                *vector,
                color=("black", *COLOURS[1:])[number],
                angles="xy",
                scale_units="xy",
                scale=1,
                width=0.011,
                label=name,
                zorder=5,
            )
        if arrows:
            axis.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(arrows), fontsize=12)
        for number, (name, (x, y)) in enumerate(zip(names, plane.positions, strict=True)):
            axis.plot(x, y, _MARKERS[number], color=COLOURS[1], markeredgecolor="white", markersize=12)
            axis.annotate(
                name,
                (x, y),
                textcoords="offset points",
                xytext=(-10, (14, -28)[number]) if arrows else (10, 8),
                fontsize=14,
                bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.8, "linewidth": 0},
            )
        axis.set(xlabel=axes_labels[0], ylabel=axes_labels[1])
        figure.suptitle(title, fontsize=16)
        return figure
