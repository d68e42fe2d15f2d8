"""Every notebook follows the house's template, and runs: on the embedded data at its defaults, and on AV-Digits."""

import ast
import json
import re
from pathlib import Path

import nbformat
import papermill
import pytest
from conftest import parameters_of
from nbformat import NotebookNode
from pages import CUT_OFF, body_of, formulas_left, probed

from mmlib import data, methods, published
from mmlib.batch import editions, suites
from mmlib.batch.execution import FINISHED
from mmlib.batch.given import declared_in
from mmlib.batch.runner import NOTEBOOK, WITHOUT_CODE
from mmlib.batch.slides import deck
from mmlib.models import video
from mmlib.notebook.parameters import SHARED, own_of

NOTEBOOKS = sorted(suites.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
TEACHING = [path for path in NOTEBOOKS if "reproduce" not in path.stem]
(OWN,) = (path for path in NOTEBOOKS if path.stem[:2] == "12")
# The claims each notebook is about: they must hold, with at least this effect, at the default parameters. Other
# processors round differently, which is like other seeds: the bounds lie four standard errors below what was seen with
# the default seeds and with others (`first_seed=100`), and claims for which that is below zero are left out. Averages
# in the unseen domain, what `02` is about, are four standard errors above it with all sixteen seeds together.
HEADLINES = {
    "00_start_here": {
        "both senses together beat the better single one in known domains": 0.03,
        "the unseen domain costs the joint model accuracy": 0.09,
        "true labels teach more than shuffled ones": 0.7,
    },
    "01_modality_imbalance": {
        "one modality is learned faster than the other": 0.06,
        "ERM leaves the slow encoder under-trained": 0.04,
        "the slow encoder loses more than the fast one": 0.03,
        "multi-loss teaches the slow encoder more than ERM": 0.03,
        "ERM's prediction depends more on the fast modality": 0.24,
        "with an unreliable fast modality, ERM teaches the slow encoder more": 0.01,
    },
    "02_weight_averaging_and_flatness": {
        "EMA beats ERM in the unseen domain": 0.0,
        "SWA beats ERM in the unseen domain": 0.0,
        "a loss of its own teaches the neglected encoder (audio) more than averaging does": 0.025,
    },
    "03_adaptive_modality_dropout": {
        "the fast modality is dropped more than the slow one": 0.37,
        "different modalities lead to more dropout than identical ones": 0.3,
        "dropping image lengthens the audio encoder's gradient (log10 of the ratio)": 0.45,
        "adaptive dropout teaches the slow encoder more": 0.01,
        "adaptive dropout beats none (unseen, image gone)": 0.04,
    },
    "04_gradient_consistency": {
        "the first-order gradient points in the direction of the exact one (cosine)": 0.75,
        "large step beats heads in the unseen domain": 0.025,
    },
    "05_cross_modal_distillation": {
        "audio has more to learn from the teacher than image": 0.5,
        "distillation brings the audio head closer to the teacher (new samples)": 0.035,
        "a long half-life learns slower in the first half": 0.24,
    },
    "06_mbcd_domain_generalization": {
        "MBCD beats ema + multi-loss in unseen domains (percentage points)": 0.4,
    },
    "07_modality_gap_and_gmm": {
        "gaps find bad samples better than chance (AUC minus one half)": 0.34,
        "relative scores separate better than plain ones (AUC)": 0.09,
        "separation fades from halfway on (AUC)": 0.11,
        "degraded audio is being memorised in the second half": 0.05,
        "degraded image is being memorised in the second half": 0.15,
        "where the rule stops, separation is better than at the end (AUC)": 0.03,
        "where both are wrong, more samples are degraded": 0.1,
        "with one useless modality the plain gap points at the good samples (one half minus AUC)": 0.04,
        "relative scores fix that (AUC)": 0.34,
    },
    "08_gmm_adaptive_training": {
        "adaptive training closes the gap of clean samples": 0.06,
        "adaptive training leaves the gap of degraded samples open": 0.19,
        "GMM-adaptive beats concat (last epochs, percentage points)": 1.0,
        "GMM-adaptive beats multi-loss (last epochs, percentage points)": 6.0,
        "all properties beat trust alone (last epochs, percentage points)": 6.5,
    },
    "09_data_purification": {
        "at one half, the filter lowers the share of degraded samples": 0.26,
        "by plain scores, a lenient threshold keeps more samples than a strict one (share)": 0.34,
        "purified by relative scores beats random (percentage points)": 9.5,
        "purified by relative scores beats all (percentage points)": 8.5,
        "relative scores purify better than plain ones (percentage points)": 7.0,
        "both conditions beat gap alone (percentage points)": 1.5,
        "both conditions beat known alone (percentage points)": 7.4,
        "purifying after one epoch falls behind purifying later (percentage points)": 1.3,
    },
    "10_reproduce_mbcd_tables": {
        "STAND-IN: ERM is above chance (percentage points)": 50.0,
    },
    "11_reproduce_gmm_tables": {
        "STAND-IN: multi-loss is above chance (percentage points)": 35.0,
    },
    "12_your_own_method": {
        "audio, the weaker modality of erm, contributes more in steady (Shapley value)": 0.005,
    },
}
# What holds or does not without an interval.
FLAT_OUT = {
    "04_gradient_consistency": ["the error of the Taylor prediction falls at second order"],
    "07_modality_gap_and_gmm": [
        "the rule ends the warm-up between the first and the last epoch",
        "our mixture agrees with scikit-learn (largest difference of the means)",
        "two components also fit one population's skewed gaps better than one (BIC)",
    ],
    "12_your_own_method": ["a step of steady costs less than one of mbcd (ratio)"],
}


def test_every_notebook_has_its_headlines_and_is_run_by_default():
    assert [path.stem for path in NOTEBOOKS] == sorted(HEADLINES) == sorted(job.name for job in DEFAULTS)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def prose(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def assigned(source):
    """The names that a cell gives values to, those inside functions and comprehensions aside."""
    found = set()
    for statement in ast.parse(source).body:
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        found |= {node.id for target in targets if target for node in ast.walk(target) if isinstance(node, ast.Name)}
    return found


class TestTemplate:
    def test_is_small_and_carries_no_outputs(self, notebook):
        assert len(notebook.cells) <= 50
        assert not any(cell.outputs or cell.execution_count for cell in code(notebook))

    def test_opens_with_title_finding_objectives_and_time(self, notebook):
        first = prose(notebook)[0]
        assert re.match(r"# \d\d · \w", first)
        assert re.search(r"^\*\*.+\*\*$", first, re.M), "the finding in one sentence"
        assert "You will be able to" in first and re.search(r"^Time: .+", first, re.M)

    def test_parameters_are_typed_commented_and_literal(self, notebook):
        (cell,) = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
        assert cell is code(notebook)[0]
        for line in cell.source.splitlines():
            assert re.fullmatch(r'\w+: (int|float|str|bool) = ("[^"]*"|[\d.]+|True|False)  # .+', line), line

    def test_set_up_is_one_short_cell_that_checks_every_parameter(self, notebook):
        parameters, set_up, *rest = code(notebook)
        assert len([line for line in set_up.source.splitlines() if line.strip()]) <= 18
        own = own_of([set_up.source])
        for line in parameters.source.splitlines():
            name, comment = line.split(":")[0], line.split("  # ")[1]
            assert name in own or name in SHARED, f"{name} is not checked"
            assert name not in SHARED or comment.startswith(SHARED[name].meaning), f"{name} means something else here"
        assert not any(re.search(r"^(import|from) ", cell.source, re.M) for cell in rest)

    def test_parameters_are_read_through_the_settings_alone(self, notebook):
        """And no name of the shared table means anything else: the set-up cell may be run again at any time."""
        parameters, _, *rest = code(notebook)
        declared = {line.split(":")[0] for line in parameters.source.splitlines()}
        for cell in rest:
            nodes = list(ast.walk(ast.parse(cell.source)))
            names = [node for node in nodes if isinstance(node, ast.Name)]
            stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
            stored |= {node.arg for node in nodes if isinstance(node, ast.arg)}
            assert not {node.id for node in names} & declared - stored, "not past its check"
            assert not assigned(cell.source) & (SHARED.keys() | declared), cell.source

    def test_no_function_replaces_another(self, notebook):
        """A cell further down would call the wrong one."""
        parts = [node for cell in code(notebook) for node in ast.parse(cell.source).body]
        names = [node.name for node in parts if isinstance(node, ast.FunctionDef)]
        assert len(names) == len(set(names))

    def test_defines_no_classes_and_no_plots(self, notebook):
        """But for the one whose lesson is a class, of at most twenty lines."""
        classes = [cell.source for cell in code(notebook) if re.search(r"^\s*class ", cell.source, re.M)]
        assert len(classes) == (prose(notebook)[0].startswith("# 12"))
        for source in classes:
            (made,) = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
            assert made.end_lineno - made.lineno < 20
        for cell in code(notebook):
            assert not re.search(r"plt\.|\.backward\(", cell.source)

    def test_prose_has_no_typed_in_results(self, notebook):
        for text in prose(notebook):
            without_code = re.sub(r"`[^`]*`|\[arXiv .*?\)|^# .*|^Time:.*|95 % interval", "", text, flags=re.M)
            assert not re.search(r"\d+\.\d|\d\s?%|±", without_code), text

    def test_ends_with_its_claims_and_what_is_next(self, notebook):
        assert any(cell.source.strip() == "record" for cell in code(notebook))
        assert "## What we claim" in "\n".join(prose(notebook))
        last = prose(notebook)[-1]
        assert notebook.cells[-1].source == last and last.startswith("## Next")
        assert "| symbol | meaning |" in last and "https://arxiv.org/abs/" in last
        for tag in re.findall(r"\[(?:paper|port|kit)\b", "\n".join(prose(notebook))):
            assert f"{tag}]: " in last, "every mark of whose a statement is, is explained"

    def test_has_a_slider_and_describes_every_figure(self, notebook):
        source = "\n".join(cell.source for cell in code(notebook))
        assert re.search(r"widgets\.slide(_several)?\(", source)
        for call in re.findall(r"plots\.show\((.*?)\)$", source, re.M | re.S):
            assert call.count('"') >= 2, call


@pytest.mark.parametrize(
    "path", [path for path in TEACHING if "01" <= path.stem[:2] <= "09"], ids=lambda path: path.stem
)
class TestExercises:
    def test_has_some_to_write_and_something_to_predict(self, path):
        notebook = nbformat.read(path, as_version=4)
        text = "\n".join(prose(notebook))
        assert 2 <= len(re.findall("^### Exercise · [A-Z]", text, re.M)) <= 4 and solutions(notebook)
        assert re.search("^### Predict", text, re.M)

    def test_what_is_written_is_short_and_has_a_hint(self, path):
        cells = nbformat.read(path, as_version=4).cells
        for place, cell in enumerate(cells):
            if "solution" in cell.metadata.get("tags", []):
                (*_, function) = ast.parse(cell.source).body
                assert function.end_lineno - function.body[0].end_lineno <= 15
                hint = cells[place + 1]
                assert "hint" in hint.metadata.get("tags", []) and hint.source.startswith("Hint: ")

    def test_has_one_live_experiment_which_says_that_single_runs_decide_nothing(self, path):
        cells = nbformat.read(path, as_version=4).cells
        (place,) = [place for place, cell in enumerate(cells) if "live.Experiment(" in cell.source]
        assert len(list(filter(None, cells[place].source.splitlines()))) <= 10
        assert re.search("^##+ Live: .*single run decides nothing", cells[place - 1].source, re.M | re.S)

    def test_guesses_start_empty_and_are_looked_at_later(self, path):
        sources = [cell.source for cell in code(nbformat.read(path, as_version=4))]
        guesses = [source for source in sources if source.startswith("your_")]
        assert guesses
        for source in guesses:
            name, options = re.fullmatch(r"(your_\w+) = None  # (.+)", source).groups()
            (used,) = [one for one in sources if re.search(rf"\b{name}\b", one) and one != source]
            assert sources.index(used) > sources.index(source)
            for option in re.findall('"[^"]+"', options):
                assert option in used, f"{option} is no answer"


# A little of everything on human speech and handwriting, with seeds that no other test uses.
FEW = {"seeds": 2, "first_seed": 3, "epochs": 2, "warm_up": 2, "training_samples": 300, "directions": 2}
QUICK = {"seeds": 2, "first_seed": 3, "epochs": 1, "data": "stand-in"}
# SlowOnly on flow and ResNet-18 on sound from kept activations, as the papers train them; and everything else at once.
PAPERS = {"benchmark": "epic_kitchens", "modalities": "flow+audio", "encoder": "papers", "augment": False}
REST = {"modalities": "video+audio+flow", "protocol": "held-out", "decay": 0.9, "target": "animal"}
# Those that need more epochs, and everything switched on.
MORE = {
    "02": {"epochs": 4},
    "07": {"epochs": 3},
    "09": {"epochs": 3},
    "06": {"tuning": "grid", "arms": True, "epochs": 1},
    "12": {"tuned": True, "rivals": "gmm-adaptive", "conditions": "swapped, clean", "epochs": 1},
    "08": {"degradation": "noise", "degraded_in": "everywhere", "rivals": True, "tuned": True, "sensitivity": True}
    | {"epochs": 2, "warm_up": 1, "training_samples": 150},
}


def run_of(number: str, parameters):
    """The run of a notebook with those of these parameters that it declares."""
    (path,) = [path for path in NOTEBOOKS if path.stem.startswith(number)]
    known = declared_in(path)
    return suites.make_job(path, {name: value for name, value in parameters.items() if name in known})


def named(jobs):
    """For `parametrize`: each run with the name of its notebook."""
    return [pytest.param(job, id=job.notebook.stem) for job in jobs]


DEFAULTS = suites.read("quick").jobs([], {})
AV_DIGITS = [
    run_of(path.stem[:2], {"dataset": "av_digits", "target": "M"} | FEW | MORE.get(path.stem[:2], {}))
    for path in TEACHING
]
THREE_MODALITIES = run_of("06", FEW | {"flow": True, "rivals": True, "target": "contour", "epochs": 1})
STAND_INS = [job for job in DEFAULTS if job.notebook not in TEACHING]
OTHER_STAND_INS = [
    run_of("10", QUICK | PAPERS | {"target": "D1", "batch_size": 32}),
    run_of("10", QUICK | REST | {"single_source": True, "ablation": True}),
    run_of("11", QUICK | {"benchmark": "ave", "rivals": False, "epochs": 2, "warm_up": 1}),
]


def of_run(notebooks, job):
    """The claims of a run by statement, and its notebook; fails with the run's own error where it did not finish."""
    result = notebooks.result(job)
    assert result.status == FINISHED, f"{result.error}\n{result.cell}\n{result.stderr}"
    content = json.loads((notebooks.out / job.name / NOTEBOOK).read_text())
    for cell in content["cells"]:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                assert output["metadata"]["image/png"]["alt"]
    (record,) = result.records
    return {claim["statement"]: claim for claim in record["claims"]}, content


@pytest.fixture
def record_here(monkeypatch):
    """The record of a run of the student's edition as it is, with nothing written yet, executed in this process and
    without Jupyter, which executes every notebook at its defaults meanwhile."""
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # no workers have to be started
    for table in ("METHODS", "GRIDS"):  # which a notebook may add to
        monkeypatch.setattr(methods, table, getattr(methods, table).copy())

    fewer, load = {"av_digits": {"pairs": 200}, "spoken_digits": {"samples_per_class": 6}}, data.load
    for module in (data, data.digits):
        monkeypatch.setattr(module, "load", lambda name, **dials: load(name, **fewer.get(name, {}) | dials))

    def record(job):
        names = {"__name__": "__main__"}
        for cell in code(editions.without_solutions(nbformat.read(job.notebook, as_version=4))):
            exec(compile(cell.source, job.notebook.name, "exec"), names)
            if "parameters" in cell.metadata.get("tags", []):
                names |= job.parameters
        return names["record"]

    return record


@pytest.fixture
def claims_here(record_here):
    """The claims of such a run."""
    return lambda job: [claim.statement for claim in record_here(job).claims]


@pytest.mark.notebook
@pytest.mark.parametrize("run", named(AV_DIGITS))
def test_runs_on_human_speech_and_handwriting(run, av_digits_prepared, claims_here, capsys):
    assert claims_here(run)
    open_exercises = solutions(json.loads(run.notebook.read_text()))
    assert capsys.readouterr().out.count(" is not written yet. Until then, ") == open_exercises


@pytest.mark.notebook
def test_runs_with_three_modalities_and_all_rivals(claims_here):
    assert "MBCD beats moosa in unseen domains (percentage points)" in claims_here(THREE_MODALITIES)


@pytest.mark.notebook
@pytest.mark.parametrize("job", named(DEFAULTS))
def test_runs_on_the_embedded_data_and_its_headlines_hold(job, notebooks):
    claims, content = of_run(notebooks, job)
    printed = "".join("".join(output["text"]) for output in outputs_of(content) if output["output_type"] == "stream")
    assert printed.count("Right: the cells below use your ") == solutions(content)
    measured = re.findall(r"Measured: .*\((\S+) ± (\S+)\)\.", printed)
    calls = "".join("".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code")
    assert bool(measured) == bool(re.search(r"\b(predicted|foremost)\(", calls))
    for mean, half_width in measured:
        assert abs(float(mean)) > float(half_width), "decided, or nobody can predict it"
    assert not formulas_left((notebooks.out / job.name / WITHOUT_CODE).read_text(encoding="utf-8"))
    key = [claim["verdict"] for claim in claims.values() if claim["key"]]
    assert 1 <= len(key) <= 3 and set(key) <= {"holds", "fails"}, "what the page of a batch opens with"
    for statement, least in HEADLINES[job.name].items():
        claim = claims[statement]
        assert claim["verdict"] == "holds", f"{statement}: {claim['measured']}"
        assert float(claim["measured"].split(" ± ")[0]) > least, f"{statement}: {claim['measured']}"
    for statement in FLAT_OUT.get(job.name, ()):
        assert claims[statement]["verdict"] == "holds", f"{statement}: {claims[statement]['measured']}"


def own_method(file):
    """The method that notebook 12 defines, with what it imports, as a file."""
    _, set_up, own, *_ = (cell.source for cell in code(nbformat.read(OWN, as_version=4)))
    imports = [line for line in set_up.splitlines() if line.startswith(("import torch", "from mmlib"))]
    file.write_text("\n".join([*imports, "", own]))
    return str(file)


@pytest.mark.notebook
def test_a_method_in_a_file_finds_what_it_finds_in_the_notebook(record_here, cache, monkeypatch, tmp_path):
    """With a cache of its own, which has the generated data alone: all is trained anew."""
    few = {"rivals": "multi-loss", "conditions": "clean", "target": "none", "seeds": 2, "first_seed": 3, "epochs": 1}
    here = record_here(run_of("12", few))
    for path in (*cache.glob("*.npz"), *cache.glob("speed-*.json")):
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path))
    there = record_here(run_of("12", few | {"method": own_method(tmp_path / "steady.py")}))
    assert methods.variant("steady").kind.__module__ != "__main__", "the file's"
    found = [[claim for claim in record.claims if "ratio" not in claim.statement] for record in (here, there)]
    assert found[0] == found[1] and len(found[0]) > 2
    scores = [{key: value for key, value in row.items() if key != "loaded"} for row in there.runs]
    assert scores == [{key: value for key, value in row.items() if key != "loaded"} for row in here.runs]
    assert not any(row["loaded"] for row in there.runs)
    assert {row["target"] for row in there.runs} == {""}, "no domain is left out"


@pytest.mark.notebook
def test_a_wrong_method_stops_the_notebook_before_anything_is_trained(record_here, tmp_path):
    broken = Path(own_method(tmp_path / "mine.py"))
    broken.write_text(broken.read_text().replace("return {", "losses = {"))
    with pytest.raises(methods.WrongMethod, match=r"^mine: step_losses returns nothing: is there a `return`"):
        record_here(run_of("12", {"method": str(broken)}))


@pytest.fixture
def all_at_defaults(request):
    chosen = [parameters_of(item).get("job") for item in request.session.items]
    if not all(job in chosen for job in DEFAULTS):
        pytest.skip("only some of the notebooks were chosen")


@pytest.mark.notebook
def test_slides_of_all_notebooks_fit_the_screen(all_at_defaults, notebooks, chromium, tmp_path):
    finished = [job.name for job in DEFAULTS if of_run(notebooks, job)]
    executed = [nbformat.read(notebooks.out / name / NOTEBOOK, as_version=4) for name in finished]
    (tmp_path / "deck.html").write_text(deck(NotebookNode(cells=[cell for one in executed for cell in one.cells])))
    seen = body_of(chromium(probed(tmp_path / "deck.html", CUT_OFF), tmp_path / "profile", height=720))
    assert seen["slides"] > 10 * len(DEFAULTS) and not seen["cut"] and not seen["violations"]


@pytest.mark.notebook
def test_at_most_a_quarter_of_the_claims_is_undecided(all_at_defaults, notebooks):
    """Of all notebooks together, at their default parameters."""
    verdicts = [claim["verdict"] for job in DEFAULTS for claim in of_run(notebooks, job)[0].values()]
    undecided = verdicts.count("not distinguishable")
    print(
        f"{len(verdicts)} claims: {verdicts.count('holds')} hold, {verdicts.count('fails')} fail, {undecided} undecided"
    )
    assert undecided <= len(verdicts) / 4


@pytest.mark.notebook
@pytest.mark.parametrize("job", named(STAND_INS))
def test_reproductions_say_that_they_are_stand_ins(job, notebooks):
    claims, content = of_run(notebooks, job)
    assert claims and all(statement.startswith("STAND-IN: ") for statement in claims)
    tables = [text for text in html_of(content) if "paper, %" in text]
    assert tables and all("STAND-IN of synthetic clips, NOT" in text for text in tables)


@pytest.fixture
def shallow(monkeypatch):
    """The papers' encoders with one block a stage: as deep as they should be, they are tested with the models."""
    from torchvision.models.resnet import BasicBlock, ResNet  # takes a second to import

    monkeypatch.setitem(video._BLOCKS, 50, (1, 1, 1, 1))
    monkeypatch.setattr("torchvision.models.resnet18", lambda weights: ResNet(BasicBlock, [1, 1, 1, 1]))


@pytest.mark.notebook
@pytest.mark.parametrize("run", named(OTHER_STAND_INS))
def test_reproductions_run_on_other_benchmarks(run, shallow, claims_here, monkeypatch):
    tables, captioned = [], published.captioned
    monkeypatch.setattr(published, "captioned", lambda *of: tables.append(captioned(*of)))
    claims = claims_here(run)
    assert claims and all(statement.startswith("STAND-IN: ") for statement in claims)
    assert tables and all("STAND-IN of synthetic clips, NOT" in table.to_html() for table in tables)


def outputs_of(content):
    """Every output of an executed notebook."""
    return [output for cell in content["cells"] for output in cell.get("outputs", [])]


def html_of(content):
    """Every HTML output of an executed notebook."""
    return [
        "".join(output["data"]["text/html"]) for output in outputs_of(content) if "text/html" in output.get("data", {})
    ]


def solutions(content):
    """How many exercises a notebook has that ask for code."""
    return sum("solution" in cell["metadata"].get("tags", []) for cell in content["cells"])


@pytest.mark.notebook
def test_a_wrong_parameter_stops_a_notebook_in_its_set_up(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="seeds must be an integer in 2 … 100, not '3'"):
        papermill.execute_notebook(str(NOTEBOOKS[0]), str(tmp_path / "out.ipynb"), {"seeds": "3"}, progress_bar=False)
