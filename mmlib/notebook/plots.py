"""Pure functions from data to figures that are readable in a lecture hall: no text below 12 points, no figure wider
than a page, colours safe for the colour-blind, a label, line style or hatch besides every colour, no axis beyond what
is possible, and no interval from fewer than three runs, which show nothing but how few they are."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from mmlib.data.dataset import MultimodalDataset
from mmlib.equations.mixture import Mixture
from mmlib.instruments.flatness import Plane
from mmlib.notebook.picture import Picture
from mmlib.training.estimates import estimate

_WIDTH = 9.5  # inches; a browser would shrink a wider figure, and its text
_RUNS = 3  # the fewest that an interval is drawn for
_POSSIBLE = {  # what an axis is about, by a word of its label → where such values end
    "Shapley": (-1.0, 1.0),
    "cosine": (-1.0, 1.0),
    **dict.fromkeys(("accuracy", "AUC", "probability", "confidence", "share", "score", "gap", "weight"), (0.0, 1.0)),
    **dict.fromkeys(("loss", "KL"), (0.0, np.inf)),
}
_CHANGES = ("gain", "difference", "minus", "points")  # of which either sign is possible
_HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "--")
_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 2.5,
    "hatch.linewidth": 0.6,
    "figure.constrained_layout.use": True,
}


@contextmanager
def _theme() -> Iterator[ModuleType]:
    """seaborn, with its theme while a figure is being drawn."""
    import seaborn  # takes a second to import

    with seaborn.axes_style("ticks"), seaborn.plotting_context("notebook", font_scale=1.25), plt.rc_context(_STYLE):
        yield seaborn


def show(figure: Figure, alt: str, key: bool = False) -> None:
    """Display a figure with its alternative text. A batch's page shows the figures of a notebook that are marked
    `key`."""
    display(Picture(figure, alt, key))


def sample_grid(dataset: MultimodalDataset, pictures: MultimodalDataset, label: int | None = None) -> Figure:
    """A row per domain and modality: one sample of each class, or up to ten samples of the class `label`.

    `dataset` holds network inputs (spectrograms), `pictures` the same samples' raw images.
    """
    names, lines = dataset.class_names, {}
    for domain, domain_name in enumerate(dataset.domain_names):
        here = dataset.domains == domain
        by_class = [(here & (dataset.labels == number)).nonzero().flatten().tolist() for number in range(len(names))]
        rows = [next(iter(rows), None) for rows in by_class] if label is None else by_class[label][:10]
        lines |= {f"{domain_name}\n{modality}": (modality, rows) for modality in dataset.modalities}
    return _grid(dataset, pictures, lines, names if label is None else [names[label]] * 10)


def samples(
    dataset: MultimodalDataset, pictures: MultimodalDataset, rows: Sequence[int], captions: Sequence[str]
) -> Figure:
    """The samples at these rows side by side, a row per modality, each sample under its caption. `dataset` and
    `pictures` as in `sample_grid`."""
    return _grid(dataset, pictures, {name: (name, rows) for name in dataset.modalities}, captions)


def _grid(
    dataset: MultimodalDataset,
    pictures: MultimodalDataset,
    lines: Mapping[str, tuple[str, Sequence[int | None]]],
    captions: Sequence[str],
) -> Figure:
    """Lines of samples: name of the line → (modality, rows); a column per caption, empty where there is no row."""
    with _theme():
        side = min(1.7, (_WIDTH - 0.4) / len(captions))
        size = (side * len(captions) + 0.4, side * len(lines) + 0.6)
        figure, axes = plt.subplots(len(lines), len(captions), figsize=size, squeeze=False)
        for (name, (modality, rows)), line in zip(lines.items(), axes, strict=True):
            source = pictures if modality == "image" else dataset
            for axis, row in zip(line, rows, strict=False):
                if row is not None:
                    _draw_sample(axis, modality, source.inputs[modality][row].cpu().numpy())
            line[0].set_ylabel(name, fontsize=13)
        for axis, caption in zip(axes[0], captions, strict=True):
            axis.set_title(caption, fontsize=12)
        plt.setp(axes, xticks=[], yticks=[])
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


def _interval(values: pd.Series) -> tuple[float, float]:
    """What is drawn around a mean: our interval, not seaborn's own bootstrap; nothing for too few runs."""
    found = estimate(values)
    return (found.low, found.high) if found.count >= _RUNS else (np.nan, np.nan)


def _limits(label: str, means: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """An axis from `low` to `high`, cut where what its label says ends. Where a mean lies beyond, the label is about
    something else, and nothing is cut."""
    changes = any(word in label for word in _CHANGES)
    ends = next((ends for word, ends in _POSSIBLE.items() if word in label and not changes), (-np.inf, np.inf))
    within = ends[0] <= min(means) and max(means) <= ends[1]
    return (max(low, ends[0]), min(high, ends[1])) if within else (low, high)


def curves(lines: Mapping[str, pd.DataFrame], x_label: str, y_label: str, title: str = "") -> Figure:
    """Lines with 95 % intervals: each frame has x as its index and one column per independent run. A run without any
    value, one that diverged, is left out.

    One or two lines have bands. Of more lines, bands would cover each other: these have whiskers, side by side. Two
    runs are drawn themselves, as thin lines.
    """
    lines = {label: frame.dropna(axis="columns", how="all") for label, frame in lines.items()}
    data = pd.concat({label: frame.melt(ignore_index=False) for label, frame in lines.items()}, names=["line", "x"])
    for label, x in data.index[data["value"].isna()]:
        raise ValueError(f"Every run of a curve needs a value at every x; {label!r} has none at {x}.")
    with _theme() as sns:
        columns = max(1, min(len(lines), 88 // (12 + max(map(len, lines)))))
        legend_rows = -(-len(lines) // columns) if len(lines) > 1 else 0
        figure, axis = plt.subplots(figsize=(_WIDTH, 4.6 + 0.3 * legend_rows))
        every = max(1, max(map(len, lines.values())) // 8)
        drawn = {"data": data.reset_index(), "x": "x", "y": "value", "hue": "line", "style": "line", "ax": axis}
        look = {"palette": sns.color_palette("colorblind", len(lines)), "markersize": 8, "err_kws": {"alpha": 0.15}}
        band = _interval if len(lines) <= 2 else None
        sns.lineplot(**drawn, **look, errorbar=band, markers=True, markevery=every, legend=False)
        drawn_lines = axis.lines[:]
        for number, (line, frame) in enumerate(zip(drawn_lines, lines.values(), strict=True)):
            if frame.shape[1] == 2:
                axis.plot(frame, color=line.get_color(), linestyle=line.get_linestyle(), linewidth=1)
            elif len(lines) > 2:
                marked = frame.iloc[::every]
                beside = marked.index + 0.012 * np.ptp(frame.index) * (number - (len(lines) - 1) / 2)
                low, high = zip(*(_interval(row) for _, row in marked.iterrows()), strict=True)
                axis.vlines(beside, low, high, color=line.get_color(), linewidth=1.8)
            line.set_clip_on(False)  # a line along the end of what is possible is not half a line
        means = [mean for line in drawn_lines for mean in line.get_ydata()]
        axis.set_ylim(_limits(y_label, means, *axis.get_ylim()))
        if all(pd.api.types.is_integer_dtype(frame.index) for frame in lines.values()):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.set(xlabel=x_label, ylabel=y_label, title=title)
        if legend_rows:
            figure.legend(drawn_lines, lines, loc="outside lower center", ncols=columns, handlelength=3)
        return figure


def marked_curve(values: pd.Series, at: float, x_label: str, y_label: str, title: str = "") -> Figure:
    """One curve with the point at x = `at` marked and its value beside it: for sliders."""
    figure = curves({y_label: values.to_frame()}, x_label, y_label, title)
    with _theme() as sns:
        (axis,) = figure.axes
        falls = values.iloc[-1] < values.iloc[0]  # then there is room for the number on the right
        axis.plot(at, values[at], "o", color=sns.color_palette("colorblind")[3], markersize=15)
        axis.annotate(
            f"{values[at]:.3g}",
            (at, values[at]),
            textcoords="offset points",
            xytext=(16 if falls else -16, 10),
            ha="left" if falls else "right",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0},
        )
        axis.margins(y=0.12)
        return figure


def _counted(row: str, values: pd.Series) -> str:
    missing = int(values.isna().sum())
    return f"{row} ({missing} left out)" if missing else row


def _panels(
    groups: Mapping[str, Mapping[str, pd.Series]], x_label: str, title: str
) -> tuple[Figure, list[tuple[Axes, Mapping[str, pd.Series]]]]:
    """A panel for each group, one above the other, as high as it has rows. Runs without a value are left out, and the
    row says how many."""
    for group, rows in groups.items():
        for row, values in rows.items():
            if not values.notna().any():
                raise ValueError(f"{row!r} ({group}) needs the value of a run, of the same seeds on both sides.")
    heights = [len(rows) for rows in groups.values()]
    size = (_WIDTH, 0.42 * sum(heights) + 0.5 * len(groups) + 1)
    figure, axes = plt.subplots(len(groups), figsize=size, sharex=True, height_ratios=heights, squeeze=False)
    for axis, (group, rows) in zip(axes[:, 0], groups.items(), strict=True):
        axis.set_title(group, loc="left")
        labels = [_counted(row, values) for row, values in rows.items()]
        axis.set(yticks=range(len(rows)), yticklabels=labels, ylim=(len(rows) - 0.5, -0.5))
        axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_locator(MaxNLocator(5))  # long names of rows leave little room
    axis.set_xlabel(x_label)
    figure.suptitle(title)
    there = [{row: values.dropna() for row, values in rows.items()} for rows in groups.values()]
    return figure, list(zip(axes[:, 0], there, strict=True))


def differences(groups: Mapping[str, Mapping[str, pd.Series]], x_label: str, title: str = "") -> Figure:
    """Paired differences against zero: a panel per group, a row per comparison, in it the mean with its 95 % interval,
    written out as in a claim, and a dot per run. `groups` is group → row → differences by run (index: the seed)."""
    with _theme() as sns:
        figure, panels = _panels(groups, x_label, title)
        for axis, rows in panels:
            axis.axvline(0, color="black", linewidth=1.2)
            drawn = {"data": dict(rows), "orient": "h", "ax": axis}
            mean = {"color": sns.color_palette("colorblind")[0], "marker": "D", "markersize": 11, "linestyle": "none"}
            sns.pointplot(**drawn, **mean, errorbar=_interval, capsize=0.25, err_kws={"linewidth": 2.5})
            sns.stripplot(**drawn, jitter=False, size=6, color="white", edgecolor="black", linewidth=1.2, zorder=5)
            for place, values in enumerate(rows.values()):
                written = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 13}
                axis.text(1.01, place, format(estimate(values), "+.3f"), **written)
        return figure


def bars(
    groups: Mapping[str, Mapping[str, pd.Series]], x_label: str, title: str = "", chance: float | None = None
) -> Figure:
    """Means from zero with 95 % intervals: a panel per group, a bar per row with its mean beside it.

    `groups` is group → row → values by run. A row has the same colour and hatch in every panel.
    """
    with _theme() as sns:
        figure, panels = _panels(groups, x_label if chance is None else f"{x_label} (dotted: chance)", title)
        names = list(dict.fromkeys(name for rows in groups.values() for name in rows))
        colours = sns.color_palette("colorblind", len(names))
        means = [values.mean() for rows in groups.values() for values in rows.values()]
        _, longest = _limits(x_label, means, -np.inf, np.inf)
        for axis, rows in panels:
            for place, (name, values) in enumerate(rows.items()):
                number, value = names.index(name), estimate(values)
                half = value.half_width if value.count >= _RUNS else 0.0
                look = {"color": colours[number], "hatch": _HATCHES[number % len(_HATCHES)], "edgecolor": "white"}
                axis.barh(place, value.mean, xerr=half or None, capsize=4, **look)
                written = f"{value.mean:.{1 if abs(value.mean) > 10 else 2}f}"
                end = (np.clip(value.mean + half, 0, longest), place)
                axis.annotate(written, end, textcoords="offset points", xytext=(5, 0), va="center", fontsize=13)
            if chance is not None:
                axis.axvline(chance, color="black", linestyle=":", linewidth=1.5)
            axis.margins(x=0.1)
        axis.set_xlim(_limits(x_label, means, *axis.get_xlim()))  # of all panels
        return figure


def gap_histogram(
    gaps: Mapping[str, Tensor],
    mixture: Mixture | None = None,
    threshold: float | None = None,
    title: str = "",
    x_label: str = "modality gap",
) -> Figure:
    """Stacked histogram of the gaps of up to two named groups of samples (from −1, where any is negative), the
    mixture's components on top, and a line where the posterior of the imbalanced one crosses `threshold`. Where a few
    bars tower above all others, a second panel below enlarges the others."""
    with _theme() as sns:
        colours = sns.color_palette("colorblind")
        data = {name: gaps[name].cpu().double().numpy() for name in reversed(gaps)}  # the first is drawn at the bottom
        edges = np.linspace(-1 if min(part.min() for part in data.values()) < 0 else 0, 1, 41)
        heights = sorted(np.histogram(np.concatenate([*data.values()]), edges)[0], reverse=True)
        towering = heights[0] > 4 * heights[3] > 0
        figure, axes = plt.subplots(1 + towering, figsize=(_WIDTH, 5.2), sharex=True, squeeze=False)
        look = {"palette": dict(zip(gaps, ("#BBBBBB", colours[3]), strict=False)), "alpha": 1, "edgecolor": "white"}
        for axis in axes[:, 0]:
            sns.histplot(data, multiple="stack", bins=edges, legend=False, ax=axis, **look)
            for bars, hatch in zip(axis.containers, _HATCHES[: len(gaps)], strict=True):
                plt.setp(bars.patches, hatch=hatch)
            if mixture is not None:
                grid = torch.linspace(0, 1, 401, dtype=torch.float64, device=mixture.means.device)
                lines = mixture.densities(grid).cpu().numpy() * sum(map(len, data.values())) * (edges[1] - edges[0])
                for line, colour, style in zip(lines, (0, 4, 2), ("-", "--", "-."), strict=False):
                    axis.plot(grid.cpu(), line, color=colours[colour], linestyle=style)
            if threshold is not None and len(beyond := grid[mixture.posterior(grid) > threshold]):
                axis.axvline(float(beyond[0]), color="black", linestyle=":")
            axis.set(ylabel="samples", ylim=(0, 1.1 * axis.get_ylim()[1]))
        if towering:
            axis.set(ylabel="enlarged", ylim=(0, 1.5 * heights[3]))
        axis.set(xlabel=x_label, xlim=edges[[0, -1]])
        figure.suptitle(title)
        figure.legend(axis.containers, gaps, loc="outside lower center", ncols=len(data))
        return figure


def embedding(panels: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str = "") -> Figure:
    """Points on a plane, a panel per name: (positions (N, 2), labels (N,)). Each point is drawn as the number of
    its class, counted from 0, so that colour is not needed to tell classes apart."""
    with _theme():
        figure, axes = plt.subplots(1, len(panels), figsize=(_WIDTH, _WIDTH / len(panels) + 0.6), squeeze=False)
        for axis, (name, (positions, labels)) in zip(axes[0], panels.items(), strict=True):
            axis.plot(*positions.T, linestyle="none")  # draws nothing, but finds the limits
            for (x, y), label in zip(positions, labels, strict=True):
                colour = plt.get_cmap("tab10")(label % 10)
                axis.text(x, y, str(label), color=colour, fontsize=12, ha="center", va="center")
            axis.set(xticks=[], yticks=[], title=name)
            axis.set_aspect("equal", adjustable="datalim")
        figure.suptitle(title)
        return figure


def loss_plane(
    plane: Plane,
    names: Sequence[str],
    title: str = "",
    arrows: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    axes_labels: tuple[str, str] = ("distance in weights", "distance in weights"),
) -> Figure:
    """Filled contours of the loss on a plane (logarithmic levels) with the named positions marked, and arrows given as
    name → (start, vector). Both axes have the same scale, or the upright one says that it has not."""
    with _theme() as sns:
        figure, axis = plt.subplots(figsize=(7.5, 5.5))
        lowest, highest = np.nanmin(plane.losses), np.nanmax(plane.losses)
        levels = np.geomspace(max(lowest, 1e-6), max(highest, lowest * 1.01, 2e-6), 14)
        filled = axis.contourf(plane.x, plane.y, plane.losses.clip(levels[0]), levels=levels, cmap="cividis_r")
        axis.contour(plane.x, plane.y, plane.losses, levels=levels, colors="white", linewidths=0.4)
        figure.colorbar(filled, label="loss", format="%.2g")
        red, blue = (sns.color_palette("colorblind")[number] for number in (3, 0))
        looks = (("black", 0.022), (red, 0.014), (blue, 0.006))  # the later, the slimmer: they may lie on one another
        for (name, (start, vector)), (colour, width) in zip((arrows or {}).items(), looks, strict=False):
            unscaled = {"angles": "xy", "scale_units": "xy", "scale": 1}
            axis.quiver(*start, *vector, color=colour, width=width, label=name, zorder=5, **unscaled)
        if arrows:
            figure.legend(loc="outside lower center", ncols=len(arrows))
        for number, (name, (x, y)) in enumerate(zip(names, plane.positions, strict=True)):
            inside, edge = ("white", "black") if arrows else (red, "white")  # an arrow may be red, too
            axis.plot(x, y, "os^D"[number], color=inside, markeredgecolor=edge, markersize=12)
            axis.annotate(
                name,
                (x, y),
                textcoords="offset points",
                xytext=(4, (14, -28)[number]) if arrows else (10, 8),
                ha="right" if arrows else "left",
                bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.8, "linewidth": 0},
            )
        wide = np.ptp(plane.x) / np.ptp(plane.y)
        if alike := 0.4 < wide < 2.5:  # otherwise a strip would be left
            axis.set_aspect("equal")
        axis.set(xlabel=axes_labels[0], ylabel=axes_labels[1] + ("" if alike else "\n(not to scale)"), title=title)
        return figure
