"""Records, published numbers and sliders."""

import json
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import toy_dataset

from mmlib.data import Splits
from mmlib.notebook import widgets
from mmlib.notebook.claims import MIME_TYPE, Record
from mmlib.notebook.picture import Picture
from mmlib.published import balance_benchmark, gmm_headlines, mbcd_accuracies, mbcd_table
from mmlib.published.reproduction import captioned, comparison
from mmlib.training import Estimate


def test_claims_follow_their_interval():
    record = Record("t")
    assert record.claim("up", Estimate(1.0, 0.5, 3)).verdict == "holds"
    assert record.claim("down", Estimate(-1.0, 0.5, 3)).verdict == "fails"
    even = record.claim("even", Estimate(0.1, 0.5, 3))
    assert even.verdict == "not distinguishable" and even.measured == "+0.100 ± 0.500; some 19 seeds would decide"
    hopeless = record.claim("hopeless", Estimate(0.001, 0.5, 3))
    assert hopeless.measured == "+0.001 ± 0.500; more than a thousand seeds would decide"
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
    estimate = {"mean": -1.0, "half_width": 0.5, "count": 3, "left_out": 0}
    of_second = {"measured": "-1.000 ± 0.500", "verdict": "fails", "estimate": estimate}
    assert claim == {"statement": "x <b>", "key": False} | of_second
    assert "x &lt;b&gt;" in bundle["text/html"] and "<b>" not in bundle["text/html"]


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
    assert updates[0].alt == "a figure (choose: b)." and updates[0].height
    assert drawn == ["a", "b"] and len(updates) == 1 and isinstance(updates[0], Picture)
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
