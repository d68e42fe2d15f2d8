"""Figures show what they are given, and can be read: large letters, none cut off, none upon another."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import toy_dataset
from matplotlib.figure import Figure
from matplotlib.text import Text

from mmlib.data import MultimodalDataset
from mmlib.equations.mixture import fit_mixture
from mmlib.instruments.flatness import Plane
from mmlib.notebook import plots
from mmlib.training import estimate

LONG = [f"an arm whose name is long, number {number}" for number in range(20)]
SEEDS = pd.Series([0.31, 0.42, 0.38, 0.45], index=[0, 1, 2, 3])
FRAME = pd.DataFrame({seed: [value, 2 * value, 3 * value] for seed, value in SEEDS.items()}, index=[1, 2, 3])


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def pair(count: int = 12) -> MultimodalDataset:
    """Toy samples under the names of the senses."""
    data = toy_dataset(count, classes=10)
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    inputs = {"audio": data.inputs["left"], "image": data.inputs["right"]}
    return MultimodalDataset.from_arrays(inputs, data.labels, data.domains, names, ["ink", "contour"])


def gaps() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    low = (0.1 + 0.05 * torch.randn(500, generator=generator)).abs()
    return low, (0.7 + 0.1 * torch.randn(200, generator=generator)).clamp(max=1)


def plane(names: int) -> Plane:
    around = np.linspace(-2, 2, 21)
    losses = around[:, None] ** 2 + around[None] ** 2 + 0.1
    return Plane(around, around, losses, np.array([[-1.5, 0.4], [0.2, 0.5], [1.0, 1.5]])[:names])


def test_the_band_of_a_curve_is_the_interval_of_an_estimate():
    axis = plots.curves({"line": FRAME, "other": FRAME + 1}, "x", "y").axes[0]
    wanted = [estimate(row) for row in FRAME.to_numpy()]
    assert axis.lines[0].get_ydata() == pytest.approx([value.mean for value in wanted])
    corners = axis.collections[0].get_paths()[0].vertices
    for x, value in zip(FRAME.index, wanted, strict=True):
        of_x = corners[corners[:, 0] == x, 1]
        assert (of_x.min(), of_x.max()) == pytest.approx((value.low, value.high))
    assert len(axis.collections) == 2 and not axis.lines[0].is_dashed() and axis.lines[1].is_dashed()


def test_a_curve_of_one_run_has_no_band_and_a_gap_in_a_run_is_named():
    axis = plots.curves({"line": FRAME[[0]]}, "x", "y").axes[0]
    assert axis.lines[0].get_ydata() == pytest.approx(FRAME[0])
    assert not axis.collections[0].get_paths()
    with pytest.raises(ValueError, match=r"needs a value at every x; 'line' has none at 2"):
        plots.curves({"line": FRAME.mask(FRAME.eq(2 * SEEDS[1]))}, "x", "y")


def test_differences_show_mean_interval_and_every_seed_against_zero():
    figure = plots.differences({"known": {"a − b": SEEDS, "c − b": -SEEDS}, "unseen": {"a − b": SEEDS / 2}}, "x")
    known, unseen = figure.axes
    assert [axis.get_title("left") for axis in (known, unseen)] == ["known", "unseen"]
    assert [label.get_text() for label in known.get_yticklabels()] == ["a − b", "c − b"]
    for axis, rows in ((known, [SEEDS, -SEEDS]), (unseen, [SEEDS / 2])):
        zero, *drawn = axis.lines
        assert set(zero.get_xdata()) == {0}
        means = next(line for line in drawn if line.get_marker() == "D")
        intervals = [line.get_xdata() for line in drawn if line.get_marker() != "D"]
        assert means.get_xdata() == pytest.approx([row.mean() for row in rows])
        assert [text.get_text() for text in axis.texts] == [format(estimate(row), "+.3f") for row in rows]
        for interval, dots, row in zip(intervals, axis.collections, rows, strict=True):
            assert (np.nanmin(interval), np.nanmax(interval)) == pytest.approx((estimate(row).low, estimate(row).high))
            assert sorted(dots.get_offsets()[:, 0]) == pytest.approx(sorted(row))


@pytest.mark.parametrize("draw", [plots.differences, plots.bars])
def test_what_has_no_value_is_left_out_and_the_row_says_so(draw):
    """A run that diverged, or a seed that only one side has."""
    unpaired = SEEDS - SEEDS.iloc[1:]
    (axis,) = draw({"known": {"a − b": unpaired, "a": SEEDS}}, "x").axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a − b (1 left out)", "a"]
    with pytest.raises(ValueError, match=r"'a − b' \(known\) needs the value of a run"):
        draw({"known": {"a − b": SEEDS.mask(SEEDS.notna())}}, "x")


def test_a_run_without_any_value_is_no_run_of_a_curve():
    broken = FRAME.assign(diverged=np.nan)
    drawn, whole = (plots.curves({"line": frame}, "x", "y").axes[0].lines[0] for frame in (broken, FRAME))
    assert drawn.get_ydata() == pytest.approx(whole.get_ydata())


def test_what_few_bars_tower_above_is_enlarged():
    narrow = torch.cat([torch.linspace(0.005, 0.02, 500), torch.linspace(0.1, 0.9, 300)])
    above, below = plots.gap_histogram({"all": narrow}, fit_mixture(narrow), 0.5).axes
    assert above.get_ylim()[1] > 500 > 100 > below.get_ylim()[1] > 10 and below.get_ylabel() == "enlarged"
    assert [bar.get_height() for bar in below.patches] == [bar.get_height() for bar in above.patches]
    assert len(below.lines) == len(above.lines) == 3


HIGH = pd.DataFrame({seed: [1.0 if seed else 0.8, 0.99] for seed in range(3)}, index=[1, 2])  # intervals reach past one


@pytest.mark.parametrize(
    ("label", "frame", "ends"),
    [
        ("accuracy on training samples", HIGH, (0, 1)),
        ("cosine", HIGH, (-1, 1)),
        ("AUC", HIGH, (0, 1)),
        ("loss increase", HIGH - 0.8, (0, np.inf)),
        ("KL to the teacher", HIGH - 0.8, (0, np.inf)),
    ],
)
@pytest.mark.parametrize("lines", [1, 4])
def test_no_axis_goes_beyond_what_is_possible(label, frame, ends, lines):
    named = {str(number): frame for number in range(lines)}
    low, high = plots.curves(named, "epoch", label).axes[0].get_ylim()
    assert ends[0] <= low < high <= ends[1]
    low, high = plots.curves(named, "epoch", "something else").axes[0].get_ylim()
    assert low < ends[0] or high > ends[1], "as it would be otherwise"


def test_a_difference_may_have_either_sign():
    low, _ = plots.curves({"line": HIGH - 0.8}, "epoch", "difference in accuracy").axes[0].get_ylim()
    assert low < 0


def test_no_bar_goes_beyond_what_is_possible_and_none_is_cut():
    figure = plots.bars({"a": {"x": HIGH.loc[1]}, "b": {"y": HIGH.loc[2]}}, "accuracy")
    figure.canvas.draw()
    assert [axis.get_xlim() for axis in figure.axes] == [(0, 1)] * 2
    (text,) = figure.axes[0].texts
    whisker = figure.axes[0].collections[0].get_window_extent()
    assert text.get_window_extent().x0 >= min(whisker.x1, figure.axes[0].bbox.x1), (
        "the number stands beside its whisker"
    )
    percent = plots.bars({"a": {"x": 100 * HIGH.loc[1]}}, "accuracy, %").axes[0]
    assert percent.get_xlim()[1] > 100 * HIGH.loc[1].mean(), "what is counted otherwise is not cut"


@pytest.mark.parametrize(("count", "there"), [(2, False), (3, True)])
def test_two_runs_have_no_interval(count, there):
    runs = FRAME.iloc[:, :count]
    for lines in ({"a": runs}, dict.fromkeys("abc", runs)):
        axis = plots.curves(lines, "x", "y").axes[0]
        bands = [path for part in axis.collections for path in part.get_paths() if np.isfinite(path.vertices).all()]
        assert bool(bands) == there
        assert len(axis.lines) == len(lines) * (1 if there else 3), "two runs are drawn themselves"
    axis = plots.bars({"": {"a": runs.loc[1]}}, "x").axes[0]
    assert bool(axis.collections) == there
    axis = plots.differences({"": {"a": runs.loc[1]}}, "x").axes[0]
    whiskers = [line for line in axis.lines[1:] if line.get_marker() != "D" and np.isfinite(line.get_xdata()).any()]
    assert bool(whiskers) == there and len(axis.collections[0].get_offsets()) == count


def test_many_lines_have_whiskers_side_by_side():
    axis = plots.curves(dict.fromkeys("abc", FRAME), "x", "y").axes[0]
    segments = [part.get_segments() for part in axis.collections]
    places = [[segment[0, 0] for segment in line] for line in segments]
    assert places[1] == [1, 2, 3] and np.all(np.diff(places, axis=0) > 0)
    value = estimate(FRAME.loc[2])
    assert segments[1][1][:, 1] == pytest.approx([value.low, value.high])


def test_bars_start_at_zero_and_say_their_mean():
    groups = {"g": {"a": SEEDS, "b": 100 * SEEDS}, "h": {"b": SEEDS.iloc[:1]}}
    first, second = plots.bars(groups, "accuracy", chance=0.1).axes
    assert [bar.get_width() for bar in first.patches] == pytest.approx([SEEDS.mean(), 100 * SEEDS.mean()])
    assert [text.get_text() for text in first.texts + second.texts] == ["0.39", "39.0", "0.31"]
    assert first.collections[0].get_segments()[0][:, 0] == pytest.approx([estimate(SEEDS).low, estimate(SEEDS).high])
    assert first.patches[1].get_facecolor() == second.patches[0].get_facecolor(), "a name keeps its colour"
    assert second.get_xlabel() == "accuracy (dotted: chance)" and set(second.lines[-1].get_xdata()) == {0.1}


def test_no_bar_and_no_line_looks_like_another():
    axis = plots.bars({"group": dict.fromkeys(LONG, SEEDS)}, "x").axes[0]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in axis.patches}) == 20
    assert len({bar.get_hatch() for bar in axis.patches[:7]}) == 7, "not by colour alone"
    axis = plots.curves(dict.fromkeys(LONG[:12], FRAME), "x", "y").axes[0]
    assert len({line.get_marker() for line in axis.lines}) == 12, "not by colour alone"


def test_plane_marks_the_networks():
    axis = plots.loss_plane(plane(3), ["a", "b", "c"]).axes[0]
    assert [tuple(line.get_xydata()[0]) for line in axis.lines] == [(-1.5, 0.4), (0.2, 0.5), (1, 1.5)]


def test_a_plane_has_one_scale_or_says_that_it_has_not():
    alike = plots.loss_plane(plane(2), ["a", "b"]).axes[0]
    assert alike.get_aspect() == 1 and "scale" not in alike.get_ylabel()
    long = plane(2)
    strip = plots.loss_plane(Plane(10 * long.x, long.y, long.losses, long.positions), ["a", "b"]).axes[0]
    assert "not to scale" in strip.get_ylabel()
    figure = plots.embedding({"erm": POINTS})
    assert figure.axes[0].get_aspect() == 1


def test_arrows_start_where_they_should_and_are_named():
    arrows = {"down": ([0.0, 0.0], [1.0, 0.5])}
    figure = plots.loss_plane(plane(2), ["here", "ahead"], arrows=arrows, axes_labels=("a", "b"))
    (arrow,) = [part for part in figure.axes[0].collections if hasattr(part, "U")]
    assert (arrow.U.item(), arrow.V.item()) == (1.0, 0.5) and arrow.get_offsets().tolist() == [[0, 0]]
    assert figure.legends[0].get_texts()[0].get_text() == "down" and figure.axes[0].get_xlabel() == "a"


def test_a_marked_curve_says_its_value():
    axis = plots.marked_curve(pd.Series([0.0, 0.25], index=[1.0, 2.0]), 2.0, "x", "y").axes[0]
    assert [text.get_text() for text in axis.texts] == ["0.25"] and axis.lines[-1].get_xdata()[0] == 2.0


def test_an_embedding_writes_class_numbers():
    points = np.array([[0.0, 0.0], [1.0, 2.0]])
    figure = plots.embedding({"erm": (points, np.array([3, 7])), "mbcd": (points, np.array([1, 1]))})
    assert [text.get_text() for text in figure.axes[0].texts] == ["3", "7"] and len(figure.axes) == 2
    assert figure.axes[0].get_ylim()[0] < 0 and figure.axes[0].get_ylim()[1] > 2


def test_a_gap_histogram_stacks_groups_and_marks_the_threshold():
    low, high = gaps()
    mixture = fit_mixture(torch.cat([low, high]))
    figure = plots.gap_histogram({"clean": low, "degraded": high}, mixture, 0.5, "t")
    (axis,) = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["clean", "degraded"]
    clean, degraded = axis.containers
    assert sum(bar.get_height() for bar in clean) == 500 and sum(bar.get_height() for bar in degraded) == 200
    assert [bar.get_y() for bar in degraded] == [bar.get_height() for bar in clean], "one upon the other"
    assert {bar.get_hatch() for bar in degraded} == {"//"} and not any(bar.get_hatch() for bar in clean)
    assert not axis.get_legend() and figure.legends, "not upon the bars"
    *components, threshold = axis.lines
    assert len(components) == 2
    (place,) = set(threshold.get_xdata())
    assert mixture.posterior(torch.tensor(place)) > 0.5 > mixture.posterior(torch.tensor(place - 0.005))
    area = sum(np.trapezoid(line.get_ydata(), line.get_xdata()) for line in components)
    assert area == pytest.approx(700 / 40, rel=0.02), "the curves are on the histogram's scale"
    assert len(plots.gap_histogram({"all": low}, fit_mixture(low, 1)).axes[0].lines) == 1


def test_samples_stand_under_their_captions():
    data = pair()
    figure = plots.samples(data, data, [3, 5, 7], ["x", "y", "z"])
    assert [axis.get_title() for axis in figure.axes[:3]] == ["x", "y", "z"] and len(figure.axes) == 6
    assert np.allclose(figure.axes[4].images[0].get_array(), data.inputs["image"][5, 0])


def test_a_grid_has_a_sample_of_each_class_or_many_of_one():
    data = pair(40)
    figure = plots.sample_grid(data, data)
    assert len(figure.axes) == 4 * 10 and figure.axes[10].get_ylabel() == "ink\nimage"
    drawn = figure.axes[13].images[0].get_array()
    (row,) = [row for row in range(40) if np.allclose(drawn, data.inputs["image"][row, 0])]
    assert (data.labels[row], data.domains[row]) == (3, 0)
    of_three = plots.sample_grid(data, data, 3).axes
    assert [axis.get_title() for axis in of_three[:10]] == ["three"] * 10
    here = int(((data.labels == 3) & (data.domains == 0)).sum())
    assert [bool(axis.images) for axis in of_three[:10]] == [True] * here + [False] * (10 - here)


def test_figures_carry_a_description(monkeypatch):
    """In HTML, because JupyterLab shows no other, and beside the PNG for the rest."""
    shown = []
    monkeypatch.setattr(plots, "display", shown.append)
    plots.show(plt.figure(), 'a "red" line <that> rises', key=True)
    data, metadata = shown[0]._repr_mimebundle_()
    assert metadata == {"image/png": {"alt": 'a "red" line <that> rises', "key": True}} and not plt.get_fignums()
    assert 'alt="a &quot;red&quot; line &lt;that&gt; rises"' in data["text/html"]
    assert f'src="data:image/png;base64,{data["image/png"]}"' in data["text/html"]


def test_drawing_changes_no_setting_outside():
    settings = dict(plt.rcParams)
    plots.differences({"": {"a − b": SEEDS}}, "x")
    assert dict(plt.rcParams) == settings


POINTS = np.random.default_rng(0).normal(size=(300, 2)), np.arange(300) % 12
ARROWS = {name: ([-1.5, 0.4], [1.0, 0.3]) for name in ("no look-ahead", "first order", "second order")}
FIGURES = {
    "curves": lambda: plots.curves(dict.fromkeys(LONG[:10], FRAME), "epoch", "accuracy", "A title of some length"),
    "short names": lambda: plots.curves(dict.fromkeys(("erm", "ema", "swa", "swad"), FRAME), "epoch", "accuracy"),
    "marked curve": lambda: plots.marked_curve(FRAME[0], 3, "step", "weight of the random start", "β = 0.999"),
    "bars": lambda: plots.bars({"known": dict.fromkeys(LONG, SEEDS), "unseen": {LONG[0]: SEEDS}}, "accuracy", "A", 0.1),
    "differences": lambda: plots.differences(
        {place: dict.fromkeys(LONG, SEEDS) for place in ("selected epoch", "last epochs")}, "percentage points", "A"
    ),
    "one difference": lambda: plots.differences({"unseen domain": {LONG[0]: -SEEDS}}, "percentage points"),
    "two signs": lambda: plots.differences(
        {"audio encoder": {"ERM − alone": -0.2 * SEEDS, "ERM, image degraded − ERM": 0.1 * SEEDS}}, "probe accuracy"
    ),
    "gap histogram": lambda: plots.gap_histogram(
        dict(zip(("as recorded", "degraded"), gaps(), strict=True)),
        title="Epoch 12: 300 flagged,\n80 % of them rightly",
    ),
    "towering": lambda: plots.gap_histogram(
        {"as recorded": torch.cat([torch.full((500,), 0.01), gaps()[1]]), "degraded": gaps()[1]},
        title="Epoch 12: 300 flagged,\n80 % of them rightly",
    ),
    "two runs": lambda: plots.curves(dict.fromkeys(LONG[:3], FRAME[[0, 1]]), "epoch", "accuracy", "A"),
    "up to one": lambda: plots.bars({"known": {"a": HIGH.loc[1], "b": HIGH.loc[2]}}, "accuracy", "A", 0.1),
    "embedding": lambda: plots.embedding({"erm": POINTS, "mbcd": POINTS}, "The unseen domain as networks arrange it"),
    "plane": lambda: plots.loss_plane(plane(3), ["MBCD", "EMA", "ERM"], "Test loss between MBCD, EMA and ERM"),
    "arrows": lambda: plots.loss_plane(plane(2), ["here", "ahead"], "Looking ahead", ARROWS, ("weight one", "two")),
    "grid": lambda: plots.sample_grid(pair(40), pair(40)),
    "samples": lambda: plots.samples(pair(), pair(), range(8), ["seven\n0.9  0.1"] * 8),
}


def letters_of(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> list[Text]:
    """Every text that is drawn; of the ticks' labels, those in sight."""
    drawn, draw = [], Text.draw

    def record(text, renderer):
        drawn.extend([text] if text.get_visible() and text.get_text() else [])
        draw(text, renderer)

    monkeypatch.setattr(Text, "draw", record)
    figure.set_dpi(90)  # as `png` does
    figure.canvas.draw()
    return list(dict.fromkeys(drawn))


@pytest.mark.parametrize("name", FIGURES)
def test_every_letter_can_be_read(name, monkeypatch):
    figure = FIGURES[name]()
    letters = letters_of(figure, monkeypatch)
    assert letters and figure.get_figwidth() <= 10, "a page would shrink a wider figure, and its letters"
    boxes = {text: text.get_window_extent() for text in letters}
    for text, box in boxes.items():
        assert text.get_fontsize() >= 12, text
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, f"{text} is cut off"
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, f"{text} is cut off"
    if name != "embedding":  # there, samples that are alike lie upon each other
        for number, text in enumerate(letters):
            for other in letters[number + 1 :]:
                assert not boxes[text].overlaps(boxes[other]), f"{text} lies upon {other}"
