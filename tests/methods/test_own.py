"""A method of one's own: wrong classes and files are told what is wrong, and right ones are a method like any other."""

import random
from types import SimpleNamespace

import pytest
import torch

from mmlib import methods
from mmlib.methods import Method, WrongMethod
from mmlib.training import Run, TrainingConfig, settings_by, train_runs
from mmlib.training.trial import try_method


@pytest.fixture(autouse=True)
def session(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(methods, "METHODS", methods.METHODS.copy())
    monkeypatch.setattr(methods, "GRIDS", methods.GRIDS.copy())


def with_losses(function):
    """A method with these losses, from what the network returns and the batch."""

    class Made(Method):
        def step_losses(self, batch):
            return function(self.model(batch.inputs), batch)

    return Made


def cross_entropy(outputs, batch, **options):
    return torch.nn.functional.cross_entropy(outputs.fused_logits, batch.labels, **options)


class Right(with_losses(lambda outputs, batch: {"fused": cross_entropy(outputs, batch)})):
    """What the wrong ones below differ from."""


class Forgetful(Right):
    def __init__(self, model, weight: float = 1.0):
        self.weight = weight


class ForgetfulOfParts(Right):
    def __init__(self, model):
        self.layer = torch.nn.Linear(2, 2)


class OfAnotherNetwork(Right):
    def __init__(self, model):
        super().__init__(torch.nn.Linear(2, 2))


class WrongShapes(Right):
    def __init__(self, model):
        super().__init__(model)
        self.layer = torch.nn.Linear(7, 3)

    def step_losses(self, batch):
        return {"own": self.layer(self.model(batch.inputs).features["left"]).mean()}


class DrawsElsewhere(Right):
    def step_losses(self, batch):
        return {"fused": (1 + random.random()) * super().step_losses(batch)["fused"]}


class Counting(Right):
    def __init__(self, model):
        super().__init__(model)
        self.steps = 0

    def step_losses(self, batch):
        return {"fused": (1 + self.steps) * super().step_losses(batch)["fused"]}

    def after_step(self):
        self.steps += 1


class CountsObjects(Right):
    counted = ("kept",)

    def __init__(self, model):
        super().__init__(model)
        self.kept = SimpleNamespace()


class PredictsWithLess(Right):
    @property
    def predictor(self):
        return lambda_network(self.model)


def lambda_network(model):
    class Short(torch.nn.Module):
        def forward(self, inputs):
            outputs = model(inputs)
            return outputs._replace(fused_logits=outputs.fused_logits[:, :2])

    return Short()


class PredictsWithMore(Right):
    def __init__(self, model):
        super().__init__(model)
        self.more = torch.nn.ModuleDict({"own": model, "layer": torch.nn.Linear(1, 1)})
        self.more.forward = model.forward
        self.more.layer.requires_grad_(False)

    @property
    def predictor(self):
        return self.more


class Tuned(Right):
    def __init__(self, model, learning_rate: float = 1.0):
        super().__init__(model)


def spoilt_in_place(outputs, batch):
    batch.inputs["left"] += 1
    return {"fused": cross_entropy(outputs, batch)}


def replaced(outputs, batch):
    batch.inputs["third"] = batch.inputs["left"]
    return {"fused": cross_entropy(outputs, batch)}


def sharp(outputs, batch):
    return {"fused": (0 * outputs.fused_logits).square().sum().sqrt()}


WRONG = {
    "no super": (Forgetful, r"Call super\(\).__init__\(model\) first"),
    "no super, with a layer": (ForgetfulOfParts, r"building it failed, line \d+ \(self.layer.*Call super\(\)"),
    "another network": (OfAnotherNetwork, "its `model` is not the network that it was given"),
    "shapes": (
        WrongShapes,
        r"step_losses failed, line \d+ \(return .*self.layer.*Shapes: batch.inputs left \(16, 1, 8, 8\)",
    ),
    "nothing": (with_losses(lambda outputs, batch: None), "is there a `return`"),
    "a tensor": (with_losses(cross_entropy), "returns a tensor, and not a mapping of names to losses"),
    "a list": (with_losses(lambda outputs, batch: [cross_entropy(outputs, batch)]), "and not a mapping"),
    "no names": (with_losses(lambda outputs, batch: {0: cross_entropy(outputs, batch)}), "and not a mapping"),
    "no losses": (with_losses(lambda outputs, batch: {}), "and not a mapping"),
    "a number": (with_losses(lambda outputs, batch: {"fused": cross_entropy(outputs, batch).item()}), r"no .item\(\)"),
    "per sample": (
        with_losses(lambda outputs, batch: {"fused": cross_entropy(outputs, batch, reduction="none")}),
        r"has the shape \(16,\): one number is needed. Take the .mean\(\)",
    ),
    "not finite": (with_losses(lambda outputs, batch: {"fused": cross_entropy(outputs, batch) / 0}), "'fused' is inf"),
    "detached": (
        with_losses(lambda outputs, batch: {"fused": cross_entropy(outputs, batch).detach()}),
        "has no gradient",
    ),
    "no such field": (with_losses(lambda outputs, batch: {"fused": outputs.logits.mean()}), "AttributeError.*logits"),
    "no such modality": (
        with_losses(lambda outputs, batch: {"own": outputs.unimodal_logits["sound"].mean()}),
        "KeyError: 'sound'.*left",
    ),
    "in place": (with_losses(spoilt_in_place), "changes the batch's left in place. Make a new tensor"),
    "another input": (with_losses(replaced), "changes which inputs the batch has"),
    "broken graph": (
        with_losses(lambda outputs, batch: {"a": outputs.fused_logits.exp_().square_().sum()}),
        r"backward failed.*Something is changed in place",
    ),
    "gradient not finite": (with_losses(sharp), "the gradient of .* is not finite: the root"),
    "nothing learned": (
        with_losses(lambda outputs, batch: {"fused": 0 * outputs.fused_logits.mean()}),
        "no parameter of the network gets a gradient",
    ),
    "random": (DrawsElsewhere, r"two runs of one seed differ: draw with torch alone"),
    "counting": (Counting, r"goes on differently. steps changes during training and is not kept"),
    "objects": (CountsObjects, r"what it counts \(kept\) cannot be kept"),
    "short predictor": (PredictsWithLess, r"its predictor's fused logits have the shape \(16, 2\), not \(16, 3\)"),
    "larger predictor": (PredictsWithMore, "its predictor has other weights than `self.model`"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_two_steps_find_what_is_wrong_and_say_what_to_do(wrong, toy_splits):
    kind, message = WRONG[wrong]
    methods.register("mine", kind)
    with pytest.raises(WrongMethod, match=f"^mine: .*{message}"):
        try_method("mine", toy_splits)


def test_an_option_that_training_would_take_for_itself_is_refused(toy_splits):
    methods.register("mine", Tuned, tune=("learning_rate", (0.1, 1.0)))
    with pytest.raises(WrongMethod, match="its option 'learning_rate' would never reach it"):
        try_method("mine", toy_splits)


def test_a_part_of_the_method_without_gradient_is_warned_of(toy_splits):
    class Idle(Right):
        def __init__(self, model):
            super().__init__(model)
            self.layer = torch.nn.Linear(2, 2)

    methods.register("mine", Idle)
    with pytest.warns(UserWarning, match=r"mine: layer.weight, layer.bias of the method got no gradient"):
        assert "layer" in try_method("mine", toy_splits)["without a gradient"]


@pytest.mark.parametrize("name", methods.GRIDS)
@pytest.mark.filterwarnings("error")
def test_every_method_of_the_kit_passes(name, toy_splits):
    state = torch.get_rng_state()
    found = try_method(name, toy_splits)
    assert "fused" in found["losses of the first step"] or name == "moosa"
    assert torch.equal(torch.get_rng_state(), state), "two steps change no numbers that are drawn later"


class Needy(Right):
    def __init__(self, model, weight):
        super().__init__(model)


class Open(Right):
    def __init__(self, model, **options):
        super().__init__(model)


class Alone(Right):
    def __init__(self):
        super().__init__(None)


@pytest.mark.parametrize(
    ("name", "kind", "tune", "message"),
    [
        ("mbcd", Right, None, "'mbcd' cannot be the name of your method: it is a method of the kit"),
        ("", Right, None, "cannot be the name"),
        ("mine", torch.nn.Linear, None, r"Linear is no method. Derive it: class Linear\(methods.Method\)"),
        ("mine", Right(None), None, "register the class itself"),
        ("mine", type("Empty", (Method,), {}), None, r"Empty has no step_losses\(self, batch\)"),
        ("mine", Needy, None, "the option weight of Needy.__init__ needs a name and a default: weight = …"),
        ("mine", Open, None, r"the option \*\*options of Open"),
        ("mine", Alone, None, "Alone.__init__ takes no model"),
        (
            "mine",
            Tuned,
            ("weight", (0.1, 0.3)),
            r"there is no option 'weight' to tune. Its options: \['learning_rate'\]",
        ),
        ("mine", Tuned, ("learning_rate", (0.1,)), "it cannot be tuned by .* an option and two values"),
        ("mine", Tuned, ("learning_rate", (0.1, 0.1)), "it cannot be tuned by"),
    ],
)
def test_what_is_no_method_is_not_registered(name, kind, tune, message):
    with pytest.raises(WrongMethod, match=message):
        methods.register(name, kind, tune)
    assert name not in ("mine",) or name not in methods.METHODS


RIGHT = """from mmlib import methods
from mmlib.equations.losses import fused_cross_entropy

TUNE = ("weight", (1.0, 2.0))


class Mine(methods.Method):
    def __init__(self, model, weight=1.0):
        super().__init__(model)
        self.weight = weight

    def step_losses(self, batch):
        return {"fused": self.weight * fused_cross_entropy(self.model(batch.inputs).fused_logits, batch.labels)}
"""


def test_a_second_registration_replaces_the_first_with_its_grid():
    methods.register("mine", Tuned, tune=("learning_rate", (0.1, 1.0)))
    assert len(methods.grid("mine")) == 4
    methods.register("mine", Right)
    assert methods.variant("mine").kind is Right
    with pytest.raises(ValueError, match="mine cannot be tuned: nothing says by which option"):
        methods.grid("mine")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("class Mine(", "class Mine[", r"mine.py, line 7 is not Python: .*class Mine\["),
        (
            "mmlib.equations.losses",
            "helpers",
            "mine.py, line 2 .*No module named 'helpers'. A method's file stands alone",
        ),
        ("fused_cross_entropy\n", "no_such_loss\n", "cannot import name 'no_such_loss'"),
        ("TUNE =", "1 / 0\nTUNE =", r"mine.py, line 4 \(1 / 0\): ZeroDivisionError"),
        ("TUNE =", "exit(3)\nTUNE =", "SystemExit: 3"),
        ("methods.Method", "object", "mine.py has no method: .* The class Mine is not derived from it"),
        ("class Mine", "class Other(methods.Method): ...\nclass Mine", "mine.py has 2 methods: Other, Mine. Keep one"),
        ('"weight", (', '"wait", (', "mine: there is no option 'wait' to tune"),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong(tmp_path, old, new, message):
    assert old in RIGHT
    (tmp_path / "mine.py").write_text(RIGHT.replace(old, new, 1))
    with pytest.raises(WrongMethod, match=message):
        methods.registered(str(tmp_path / "mine.py"))


def test_a_file_that_cannot_be_a_methods_is_refused(tmp_path):
    (tmp_path / "near.py").write_text(RIGHT)
    with pytest.raises(WrongMethod, match=r"There is no file .*mine.py, .* Its folder holds near.py"):
        methods.registered(str(tmp_path / "mine.py"))
    with pytest.raises(
        WrongMethod, match=r"erm.py is part of an installed package. Give a method of the kit by its name"
    ):
        methods.registered(methods.erm.__file__)
    (tmp_path / "mbcd.py").write_text(RIGHT)
    with pytest.raises(WrongMethod, match="'mbcd' cannot be the name of your method"):
        methods.registered(str(tmp_path / "mbcd.py"))
    with pytest.raises(ValueError, match="There is no method 'mine'; choose one of erm, multi-loss"):
        methods.registered("mine")


def test_a_method_in_a_file_is_trained_by_other_processes_tuned_and_kept_by_its_code(
    tmp_path, toy_splits, capsys, monkeypatch
):
    """A file named like a module of Python's own, too."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    file, config = tmp_path / "random.py", TrainingConfig(epochs=1, device="cpu")
    file.write_text(RIGHT)
    name = methods.registered(str(file))
    runs = [Run(name, "there", seed, ("left", "right")) for seed in range(2)]
    likes = [Run("erm", "there", seed, ("left", "right")) for seed in range(2)]
    mine, erm = (train_runs(some, toy_splits, config, jobs=2, cached=False) for some in (runs, likes))
    assert [one.scores for one in mine] == [one.scores for one in erm]
    chosen = settings_by(name, "grid", toy_splits, config, ["there"], range(2), ("left", "right"))
    assert chosen["there"] in methods.grid(name)
    capsys.readouterr()
    for text, trained in ((RIGHT, 1), (f"# a comment\n{RIGHT}", 0), (RIGHT.replace("self.weight *", "2 *"), 1)):
        file.write_text(text)
        methods.registered(str(file))
        train_runs(runs[:1], toy_splits, TrainingConfig(epochs=1, device="cpu", learning_rate=0.0123), jobs=1)
        assert f"{trained} runs trained" in capsys.readouterr().out
