"""Suites: inheritance, grids, seeds; and the kit's own."""

from functools import partial

import pytest

from mmlib.batch import classroom, suites
from mmlib.batch.classroom import Speed
from mmlib.batch.given import declared_in
from mmlib.data import load
from mmlib.notebook.parameters import BadParameter

ALL = suites.names()
SEEDED = "seeds: int = 3  # runs\nfirst_seed: int = 0  # from here\nepochs: int = 8  # e\nwarm_up: int = 4  # w"


def test_the_suites_of_the_kit_are_these():
    assert {"quick", "av_digits", "classroom", "mbcd_epic", "mbcd_hac", "gmm_cremad", "gmm_ave", "gmm_ks"} <= set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_every_suite_of_the_kit_fits_its_notebooks_and_says_what_it_is(name):
    suite = suites.read(name)
    assert suite.jobs([], {}) and suite.about and "\n" not in suite.about
    assert (suites.NOTEBOOKS / "suites" / f"{name}.yaml").read_text().startswith("# ")


def test_the_papers_settings_are_inherited():
    (epic,) = {job.effective["benchmark"] for job in suites.read("mbcd_epic").jobs([], {})}
    pairs = [job.effective["modalities"] for job in suites.read("mbcd_epic").jobs([], {})]
    assert epic == "epic_kitchens" and pairs == ["video+audio", "video+flow", "flow+audio", "video+audio+flow"]
    assert suites.read("mbcd_epic").limits == suites.read("mbcd_hac").limits
    (ave,) = suites.read("gmm_ave").jobs([], {})
    assert (ave.effective["protocol"], ave.effective["encoder"], ave.effective["epochs"]) == (
        "official",
        "resnet18",
        100,
    )


def test_a_suite_is_notebooks_times_grid_times_seeds(kit):
    kit.notebook("01_one", "1", SEEDED)
    kit.notebook("02_two", "1", SEEDED)
    kit.suite("base", "about: b\nparameters: {seeds: 2, epochs: [4, 8]}\nlimits: {cell: 7}\n")
    kit.suite("deep", "inherits: base\nnotebooks: ['01', '02': {epochs: 5}]\nparameters: {first_seed: [0, 2, 4]}\n")
    suite = suites.read("deep", kit.notebooks)
    assert (suite.about, suite.limits) == ("b", {"cell": 7})
    jobs = suite.jobs([], {})
    found = [(job.notebook.stem, *(job.effective[name] for name in ("epochs", "first_seed", "seeds"))) for job in jobs]
    assert found == [("01_one", epochs, first, 2) for epochs in (4, 8) for first in (0, 2, 4)] + [
        ("02_two", 5, first, 2) for first in (0, 2, 4)
    ]
    assert len({job.name for job in jobs}) == 9 and len({job.configuration for job in jobs}) == 3
    assert len(suite.jobs(["02"], {"first_seed": 7})) == 1, "the command line wins"


def test_a_run_is_named_by_what_it_is_and_not_by_the_suite_it_is_in(kit):
    kit.notebook("01_one", "1", SEEDED)
    suite = suites.read("quick", kit.notebooks)
    (plain,), (other,) = suite.jobs([], {}), suite.jobs([], {"seeds": 5})
    assert plain.name == "01_one" and other.name.startswith("01_one-")
    assert [job.name for job in suite.jobs([], {"seeds": [3, 5]})] == [plain.name, other.name]


def test_every_notebook_of_the_kit_takes_its_seeds_from_where_it_is_given():
    for job in suites.read("quick").jobs([], {"first_seed": 5, "seeds": 2}):
        source = job.notebook.read_text()
        assert "settings.numbers" in source and "settings.seeds)" not in source
        assert "key=True" in source, "and has a figure for the page"


BUDGET = {"minutes": 20, "unit": {"alone": 1.0, "together": 0.5}, "costs": {"01": [60, 1.0], "02": [30, 0.5]}}


class TestClassroom:
    @pytest.fixture
    def jobs(self, kit):
        kit.notebook("01_one", "1", SEEDED)
        kit.notebook("02_two", "1", SEEDED)
        return suites.read("quick", kit.notebooks).jobs([], {})

    @staticmethod
    def chosen(jobs):
        return [(job.effective["seeds"], job.effective["epochs"], job.effective["warm_up"]) for job in jobs]

    def test_more_minutes_are_more_epochs_and_then_more_seeds(self, jobs):
        """Fixed parts: 90 s; a seed and epoch of both: 1.5 s."""
        speed = Speed(1.0, 0.5)
        for minutes, expected in {
            1.9: (2, 4, 2),
            2.2: (3, 6, 3),
            2.4: (3, 8, 4),
            2.9: (5, 8, 4),
            20: (10, 8, 4),
        }.items():
            planned, sentence = classroom.within(jobs, BUDGET, speed, minutes)
            assert self.chosen(planned) == [expected] * 2, (minutes, sentence)
            each = sum((60, 30)) + 1.5 * expected[0] * expected[1]
            assert each <= 0.9 * 60 * minutes and sentence.startswith(f"{expected[0]} seeds, ")

    def test_a_faster_machine_does_more_in_the_same_time(self, jobs):
        slow, _ = classroom.within(jobs, BUDGET, Speed(1.0, 0.5), 2.4)
        fast, _ = classroom.within(jobs, BUDGET, Speed(0.5, 0.05), 2.4)
        assert self.chosen(slow)[0] == (3, 8, 4) and self.chosen(fast)[0] == (10, 8, 4)

    def test_what_was_asked_for_stays(self, kit, jobs):
        fixed = suites.read("quick", kit.notebooks).jobs([], {"seeds": 4})
        planned, _ = classroom.within(fixed, BUDGET, Speed(1.0, 0.5), 20)
        assert self.chosen(planned) == [(4, 8, 4)] * 2

    def test_too_few_minutes_are_refused_with_how_many_it_takes(self, jobs):
        with pytest.raises(BadParameter, match=r"the least takes 2\. Give it --minutes 2, or choose fewer"):
            classroom.within(jobs, BUDGET, Speed(1.0, 0.5), 1)
        assert classroom.within(jobs, BUDGET, Speed(1.0, 0.5), 2)

    def test_a_notebook_without_costs_is_named(self, jobs):
        with pytest.raises(BadParameter, match=r"no costs for 02_two\.ipynb"):
            classroom.within(jobs, BUDGET | {"costs": {"01": [1, 1]}}, Speed(1.0, 0.5), 1)

    def test_the_machine_is_measured_once(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MMLIB_CACHE", str(tmp_path))
        measured = iter([Speed(1.0, 0.5)])
        monkeypatch.setattr(classroom, "_measure", lambda: next(measured))
        assert classroom.calibrate() == classroom.calibrate() == Speed(1.0, 0.5)

    def test_all_its_plans_are_accepted_by_the_kits_notebooks(self):
        suite = suites.read("classroom")
        for job in suite.jobs([], {}):
            for seeds, share in classroom.PLANS[:3]:
                planned = classroom._scaled(job, seeds, share)
                assert planned.effective["epochs"] <= declared_in(job.notebook)["epochs"][1]
        assert suite.budget["minutes"] == 20


def test_a_machine_is_calibrated(monkeypatch):
    """With fewer samples than are measured elsewhere: what they are is not the point."""
    monkeypatch.setattr(classroom, "load", partial(load, samples_per_class=5))
    speed = classroom._measure()
    assert 0 < speed.together < 2 * speed.alone < 200
