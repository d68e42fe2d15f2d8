"""Records, parameters, figures and sliders."""

import json
from types import SimpleNamespace

import IPython.display
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import toy_dataset

from mmlib.data import MultimodalDataset, Splits
from mmlib.equations.mixture import fit_mixture
from mmlib.instruments.flatness import Plane
from mmlib.notebook import plots, widgets
from mmlib.notebook.claims import MIME_TYPE, Record
from mmlib.published import balance_benchmark, gmm_headlines, mbcd_accuracies, mbcd_table
from mmlib.published.reproduction import captioned, comparison
from mmlib.training import Estimate


def test_claims_follow_their_interval():
    record = Record("t")
    assert record.claim("up", Estimate(1.0, 0.5, 3)).verdict == "holds"
    assert record.claim("down", Estimate(-1.0, 0.5, 3)).verdict == "fails"
    assert record.claim("even", Estimate(0.1, 0.5, 3)).verdict == "not distinguishable"
    assert record.claim("checked", 0.25, holds=np.bool_(False)).verdict == "fails"
    with pytest.raises(ValueError, match="leave out `holds`"):
        record.claim("forced", Estimate(-1.0, 0.5, 3), holds=True)
    with pytest.raises(ValueError, match="Say whether 'silent' holds"):
        record.claim("silent", 0.5)


def test_a_cell_run_twice_claims_once_and_the_record_is_json():
    record = Record("t")
    record.claim("x <b>", Estimate(1.0, 0.5, 3))
    record.claim("x <b>", Estimate(-1.0, 0.5, 3))
    bundle = record._repr_mimebundle_()
    (claim,) = json.loads(json.dumps(bundle[MIME_TYPE]))["claims"]
    estimate = {"mean": -1.0, "half_width": 0.5, "count": 3}
    assert claim == {"statement": "x <b>", "measured": "-1.000 ± 0.500", "verdict": "fails", "estimate": estimate}
    assert "x &lt;b&gt;" in bundle["text/html"] and "<b>" not in bundle["text/html"]


def test_curves_and_bars_draw_means_and_intervals():
    frame = pd.DataFrame({0: [1.0, 2.0], 1: [3.0, 2.0]}, index=[1, 2])
    axis = plots.curves({"line": frame, "other": frame + 1}, "x", "y").axes[0]
    assert axis.lines[0].get_ydata().tolist() == [2.0, 2.0] and len(axis.collections) == 2
    styles = {(line.get_color(), str(line.get_linestyle())) for line in axis.lines}
    assert len(styles) == 2 and len({line.get_linestyle() for line in axis.lines}) == 2, "not by colour alone"
    groups = {"g": {"a": Estimate(0.5, 0.1, 3), "b": Estimate(0.7, 0.2, 3)}, "h": {"b": Estimate(0.1, 0.0, 3)}}
    axis = plots.bars(groups, "y", chance=0.1).axes[0]
    assert [round(bar.get_height(), 3) for bar in axis.patches] == [0.5, 0.7, 0.1]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]
    plt.close("all")


def test_no_bar_and_no_line_looks_like_another():
    names = [f"arm {number}" for number in range(20)]
    axis = plots.bars({"group": {name: Estimate(1.0, 0.1, 3) for name in names}}, "y").axes[0]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in axis.patches}) == 20
    axis = plots.curves({name: pd.DataFrame({0: [1.0, 2.0]}) for name in names[:8]}, "x", "y").axes[0]
    assert len({(line.get_color(), line.get_linestyle()) for line in axis.lines}) == 8
    plt.close("all")


def test_plane_marks_the_networks():
    plane = Plane(
        np.arange(4.0), np.arange(3.0), np.arange(12.0).reshape(3, 4) + 1, np.array([[0, 0], [2, 0], [1, 2.0]])
    )
    axis = plots.loss_plane(plane, ["a", "b", "c"]).axes[0]
    assert [tuple(line.get_xydata()[0]) for line in axis.lines] == [(0, 0), (2, 0), (1, 2)]
    plt.close("all")


def test_arrows_start_where_they_should_and_are_named():
    plane = Plane(np.arange(3.0), np.arange(3.0), np.ones((3, 3)) + np.eye(3), np.array([[0.0, 0.0], [1.0, 1.0]]))
    figure = plots.loss_plane(
        plane, ["here", "ahead"], arrows={"down": ([0.0, 0.0], [1.0, 0.5])}, axes_labels=("a", "b")
    )
    (arrow,) = [part for part in figure.axes[0].collections if hasattr(part, "U")]
    assert (arrow.U.item(), arrow.V.item()) == (1.0, 0.5)
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "down" and figure.axes[0].get_xlabel() == "a"
    plt.close("all")


def test_a_marked_curve_says_its_value():
    axis = plots.marked_curve(pd.Series([0.0, 0.25], index=[1.0, 2.0], name="p"), 2.0, "x", "y").axes[0]
    assert [text.get_text() for text in axis.texts] == ["0.25"] and axis.lines[-1].get_xdata()[0] == 2.0
    plt.close("all")


def test_an_embedding_writes_class_numbers():
    points = np.array([[0.0, 0.0], [1.0, 2.0]])
    figure = plots.embedding({"erm": (points, np.array([3, 7])), "mbcd": (points, np.array([1, 1]))})
    assert [text.get_text() for text in figure.axes[0].texts] == ["3", "7"] and len(figure.axes) == 2
    plt.close("all")


def test_published_numbers_are_the_papers():
    rows = mbcd_table(1, benchmark="hac", modalities="video+audio", method="ERM", transfer="average")
    assert rows["accuracy_percent"].tolist() == [66.34]
    with pytest.raises(ValueError, match="no rows with table=9"):
        mbcd_table(9)
    headlines = gmm_headlines().set_index(["version", "dataset"])["accuracy_percent"]
    assert headlines["v2", "CREMA-D"] == 80.65 and headlines["v1", "AVE"] == 70.90


def test_transfers_of_the_paper_are_found_by_our_names_of_domains():
    both = "video+audio"
    assert mbcd_accuracies(1, "hac", both, "", "human")["MBCD"] == 80.08
    assert mbcd_accuracies(1, "epic_kitchens", both, "", "D1")["ERM"] == 52.04
    assert mbcd_accuracies(1, "hac", both)["MBCD"] == 70.66
    single = mbcd_table(2, benchmark="hac", transfer="A->C", method="MBCD")["accuracy_percent"].item()
    assert mbcd_accuracies(2, "hac", "video+audio+flow", "animal", "cartoon")["MBCD"] == single
    assert mbcd_accuracies(2, "hac", both, "animal", "cartoon") == {}, (
        "the paper has this pair with three modalities only"
    )
    assert mbcd_accuracies(4, "epic_kitchens", "flow+audio")["AMD+GCC+EMA+DL"] > 50
    assert balance_benchmark("CREMA-D")["MMPareto"] == 79.97
    with pytest.raises(ValueError, match="no data set 'AVE'"):
        balance_benchmark("AVE")


class TestReproduction:
    MEASURED = {"ERM": Estimate(70.0, 1.5, 3), "ours": Estimate(71.0, 2.0, 3)}  # noqa: RUF012

    def splits(self, about):
        return Splits(*[toy_dataset(12)] * 3, {}, {}, {}, about=about)

    def test_published_and_measured_stand_side_by_side(self):
        table = comparison(self.MEASURED, {"ERM": 66.34}, self.splits("HAC, protocol papers, 4 of 9 clips missing"))
        assert table.loc["ERM"].to_dict() == {
            "paper, %": "66.34",
            "measured, %": "70.0 ± 1.5",
            "measured − paper": "+3.7 ± 1.5",
            "runs": 3,
        }
        assert table.loc["ours", ["paper, %", "measured − paper"]].tolist() == ["—", "—"]

    def test_the_caption_says_protocol_and_missing_clips(self):
        splits = self.splits("HAC, protocol papers, 4 of 9 clips missing")
        page = captioned(comparison(self.MEASURED, {}, splits), splits, "Table 1.").to_html()
        assert "HAC, protocol papers, 4 of 9 clips missing. Table 1.</caption>" in page and "#a40000" not in page

    def test_nobody_takes_a_stand_in_for_a_result(self):
        splits = self.splits("STAND-IN of synthetic clips, NOT HAC, protocol papers, 0 of 9 clips missing")
        table = comparison(self.MEASURED, {"ERM": 66.34}, splits)
        assert list(table) == ["paper, %", "STAND-IN, no result, %", "measured − paper", "runs"]
        assert table["measured − paper"].tolist() == ["—", "—"]
        page = captioned(table, splits).to_html()
        assert "STAND-IN of synthetic clips, NOT HAC" in page and "#a40000" in page


def test_figures_carry_a_description(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", shown.append)
    plots.show(plt.figure(), "a red line that rises")
    _, metadata = shown[0]._repr_png_()
    assert metadata["alt"] == "a red line that rises" and not plt.get_fignums()


def test_a_slider_redraws_at_every_value_and_lets_errors_through(monkeypatch):
    drawn, updates = [], []

    class Handle:
        def update(self, image):
            updates.append(image)

    def display(*things, display_id=False):
        return Handle() if display_id else None

    monkeypatch.setattr(widgets, "display", display)

    def draw(value):
        if value == "bad":
            raise ZeroDivisionError
        drawn.append(value)
        return plt.figure()

    slider = widgets.slide(draw, ["a", "b", "bad"], "choose", "a", "a figure")
    slider.value = "b"
    assert drawn == ["a", "b"] and len(updates) == 1 and isinstance(updates[0], IPython.display.Image)
    with pytest.raises(ZeroDivisionError):
        slider.value = "bad"


def test_several_sliders_redraw_together(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        widgets, "display", lambda *things, display_id=False: SimpleNamespace(update=lambda image: None)
    )
    sliders = widgets.slide_several(
        lambda *values: drawn.append(values) or plt.figure(),
        {"epoch": [1, 2], "kind": "ab"},
        {"epoch": 2, "kind": "a"},
        "f",
    )
    sliders["kind"].value = "b"
    sliders["epoch"].value = 1
    assert drawn == [(2, "a"), (2, "b"), (1, "b")]


def test_a_gap_histogram_stacks_groups_and_marks_the_threshold():
    generator = torch.Generator().manual_seed(0)
    low, high = (
        (0.1 + 0.05 * torch.randn(500, generator=generator)).abs(),
        0.7 + 0.1 * torch.randn(200, generator=generator),
    )
    mixture = fit_mixture(torch.cat([low, high]))
    figure = plots.gap_histogram({"clean": low, "degraded": high}, mixture, 0.5, "t")
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["clean", "degraded"]
    *components, threshold = axis.lines
    assert len(components) == 2
    (place,) = set(threshold.get_xdata())
    assert mixture.posterior(torch.tensor(place)) > 0.5 > mixture.posterior(torch.tensor(place - 0.005))
    area = sum(np.trapezoid(line.get_ydata(), line.get_xdata()) for line in components)
    assert area == pytest.approx(700 / 40, rel=0.02), "the curves are on the histogram's scale"
    assert len(plots.gap_histogram({"all": low}, fit_mixture(low, 1)).axes[0].lines) == 1
    plt.close("all")


def test_samples_stand_under_their_captions():
    data = toy_dataset(12)
    data = MultimodalDataset.from_arrays({"audio": data.inputs["left"], "image": data.inputs["right"]}, data.labels)
    figure = plots.samples(data, data, [3, 5, 7], ["x", "y", "z"])
    assert [axis.get_title() for axis in figure.axes[:3]] == ["x", "y", "z"] and len(figure.axes) == 6
    drawn = figure.axes[4].images[0].get_array()
    assert np.allclose(drawn, data.inputs["image"][5, 0])
    plt.close("all")
