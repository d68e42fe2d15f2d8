"""Code as a value: what changes a hash, and what does not."""

import functools
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
from conftest import ROOT

from mmlib import methods
from mmlib.data.transforms import Augmented, FrameCrop, MagnitudeSpectrogram, PowerSpectrogram, mask_band
from mmlib.data.transforms import noise_and_blank_band as blank
from mmlib.source_code import closure, identity_of, imported_by
from mmlib.training.identity import code_of_training


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package, to be changed, whose code is looked at."""
    copy = shutil.copytree(ROOT / "mmlib", tmp_path / "mmlib", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("mmlib.source_code.PACKAGE", copy)
    return copy


def changed_by(package, file, old, new):
    """The methods whose code counts as changed when this text of this file changes."""
    path = package / file
    before = {name: code_of_training(methods.variant(name)) for name in methods.GRIDS}
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return {name for name in before if code_of_training(methods.variant(name)) != before[name]}


def test_a_changed_helper_changes_its_callers_and_nobody_else(package):
    found = changed_by(package, "methods/sim_mmdg.py", "nn.ReLU(), nn.Linear(hidden", "nn.GELU(), nn.Linear(hidden")
    assert found == {"sim-mmdg", "moosa", "cmrf"}
    assert changed_by(package, "data/digits/degradation.py", "> 0).any(0)", "> 1).any(0)") == {
        "gmm-adaptive",
        "mbcd + gmm",
    }
    for file, old, new in (
        ("training/loop.py", "optimiser.step()", "optimiser.step(None)"),
        ("models/encoders.py", "nn.ReLU()\n", "nn.GELU()\n"),
        ("models/evaluate.py", "argmax(1)", "argmin(1)"),
        ("methods/variant.py", "initialise method", "begin"),
        ("seeding.py", ">> 1", ">> 2"),
        ("data/transforms.py", "torch.where(masked", "torch.where(~masked"),
    ):
        assert changed_by(package, file, old, new) == set(methods.GRIDS), file


def test_what_does_not_run_changes_nothing(package):
    for file, old, new in (
        ("methods/sim_mmdg.py", '(B, outputs)."""', '(B, outputs), truly."""  # truly'),
        ("instruments/truth.py", "Empty bins are left out", "Empty bins are dropped"),
        ("training/loop.py", "# the loss breaks ties", "# and the loss breaks ties"),
        ("models/encoders.py", "(self, signals: Tensor) -> Tensor:", "(self, signals: Tensor,) -> Tensor:"),
        ("methods/__init__.py", '"erm": Variant(ERM),', '"erm": Variant(ERM, None, {}),'),
        ("notebook/picture.py", "import io", "import io\nimport wave"),
        ("batch/suites.py", "import json", "import json\nimport wave"),
    ):  # fmt: skip
        assert changed_by(package, file, old, new) == set(), file


def test_code_that_changed_since_it_was_imported_trains_nothing_under_its_new_name(package, monkeypatch):
    path = package / "methods" / "erm.py"
    monkeypatch.setattr("mmlib.source_code._AT_IMPORT", {path: path.read_bytes()})
    path.write_text(path.read_text() + "\n# a comment\n")
    assert code_of_training(methods.variant("erm"))
    path.write_text(path.read_text().replace("fused_cross_entropy(", "2 * fused_cross_entropy("))
    with pytest.raises(RuntimeError, match=r"mmlib\.methods\.erm changed since this process imported it: restart"):
        code_of_training(methods.variant("erm"))
    assert code_of_training(methods.variant("rna-net")), "which does not use it"


def test_what_a_process_has_imported_makes_no_difference():
    """A fresh one, and this one, which has imported about everything."""
    import mmlib.batch.suites
    import mmlib.data.clips.hac
    import mmlib.models.activations  # noqa: F401

    code = """from mmlib import methods
from mmlib.training.identity import code_of_training
print(code_of_training(methods.variant("erm")))
from mmlib.source_code import identity_of
from mmlib.data.transforms import Augmented, PowerSpectrogram, noise_and_blank_band
print(identity_of(Augmented(PowerSpectrogram(), noise_and_blank_band)))"""
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()
    assert found == [code_of_training(methods.variant("erm")), identity_of(Augmented(PowerSpectrogram(), blank))]


def test_names_that_a_package_hands_on_lead_to_where_they_come_from():
    assert imported_by("from mmlib.models import Encoder\nfrom mmlib import seeding\nimport mmlib.checks, os") == {
        "mmlib.models.encoders",
        "mmlib.seeding",
        "mmlib.checks",
    }
    inside = "def load():\n    from mmlib.data import load, MissingData"
    assert imported_by(inside) == {"mmlib.data", "mmlib.data.cache"}
    assert imported_by("for") == set() and imported_by("%matplotlib inline\nimport mmlib.checks") == {"mmlib.checks"}
    found = closure(["mmlib.methods.erm"])
    assert (
        "mmlib.models.encoders" in found and "mmlib.methods.cmrf" not in found and '"""' not in found["mmlib.seeding"]
    )
    with pytest.raises(ValueError, match=r"no module 'mmlib\.nowhere'"):
        closure(["mmlib.nowhere"])


class TestFunctions:
    def test_equal_where_they_do_the_same(self):
        def made(strength):
            return lambda images, generator: images * strength

        assert identity_of(made(1.0)) == identity_of(made(1.0)) != identity_of(made(2.0))
        assert identity_of(partial(mask_band, axis=2, most=3)) == identity_of(partial(mask_band, most=3, axis=2))
        assert identity_of(partial(mask_band, axis=2, most=3)) != identity_of(partial(mask_band, axis=2, most=4))
        assert identity_of(FrameCrop(28).random) == identity_of(FrameCrop(28).random)
        crops = [FrameCrop(28).random, FrameCrop(32).random, FrameCrop(28), FrameCrop(28, window=2)]
        assert len({identity_of(crop) for crop in crops}) == 4
        sounds = [Augmented(front_end, blank) for front_end in (PowerSpectrogram(), MagnitudeSpectrogram())]
        assert identity_of(sounds[0]) != identity_of(sounds[1])

    def test_what_a_function_uses_from_around_it_counts(self, monkeypatch):
        def louder(images, generator):
            """It has a docstring."""
            return STRENGTH * torch.exp(images)

        before = identity_of(louder)
        assert identity_of(louder) == before
        monkeypatch.setitem(globals(), "STRENGTH", 3.0)
        assert identity_of(louder) != before

    def test_what_cannot_be_described_is_equal_to_nothing(self):
        generator = torch.Generator()
        assert identity_of(generator) != identity_of(generator)

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("lambda x, g, s=1: s * x", "lambda x, g, s=2: s * x"),
            ("(lambda k: lambda x: [k * one for one in x])(1)", "(lambda k: lambda x: [k * one for one in x])(2)"),
            ("(lambda x: x) if True else (lambda x: 2 * x)", "(lambda x: x) if False else (lambda x: 2 * x)"),
            ("functools.partial(max, key=len)", "functools.partial(max, key=sum)"),
            ("functools.wraps(len)(lambda x: 1 * len(x))", "functools.wraps(len)(lambda x: 2 * len(x))"),
            ("type('Mine', (), {'k': 1})()", "type('Mine', (), {'k': 2})()"),
            ("torch.arange(5000) // 1", "torch.arange(5000) // 2"),
            ("torch.nn.Linear(2, 2)", "torch.nn.Linear(2, 2)"),
            ("torch.exp", "torch.sin"),
        ],
    )
    def test_what_differs_in_any_way_differs(self, first, second):
        """None of these has a source of its own: they are made from text, as at a prompt."""
        made = [eval(text, {"functools": functools, "torch": torch}) for text in (first, second)]
        assert identity_of(made[0]) == identity_of(made[0]) != identity_of(made[1])

    def test_globals_count_wherever_in_a_function_they_are_used(self):
        around = {"K": 1.0, "torch": torch}
        function = eval("lambda x, g: {name: K * torch.exp(one) for name, one in x}", around)
        before = identity_of(function)
        around["K"] = -1.0
        assert identity_of(function) != before

    def test_what_contains_itself_has_an_end(self):
        endless = [1]
        endless.append(endless)
        assert identity_of(endless) == identity_of(endless)

    def test_a_method_of_ones_own_is_known_by_its_code(self):
        """Also where its class's source cannot be had, as in a notebook: its functions' can."""

        def made(scale):
            class Mine(methods.MultiLoss):
                """Its docstring does not matter."""

                def step_losses(self, batch):
                    return {name: scale * loss for name, loss in super().step_losses(batch).items()}

                def again(self):
                    return Mine

            return Mine

        assert identity_of(made(1.0)) == identity_of(made(1.0)) != identity_of(made(2.0))
        assert "mmlib.methods.erm.MultiLoss" in identity_of(made(1.0))
        assert identity_of(torch.nn.Module) == "torch.nn.modules.module.Module"


STRENGTH = 2.0
