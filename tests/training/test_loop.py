import dataclasses
import math

import pytest
import torch
from conftest import toy_dataset

from mmlib import methods
from mmlib.data import MultimodalDataset
from mmlib.data.transforms import random_shift
from mmlib.methods.base import Method
from mmlib.models import build_classifier
from mmlib.models.evaluate import evaluate
from mmlib.seeding import torch_generator
from mmlib.training import Diverged, TrainingConfig, fit, loop
from mmlib.training.capture import CapturedStep
from mmlib.training.checkpoint import Checkpoint

CONFIG = TrainingConfig(epochs=4, batch_size=32, device="cpu", seed=1)
AUGMENTATIONS = {"left": random_shift}


def make(name, head="mlp"):
    head = "linear" if name in ("ogm-ge", "agm") else head  # those two split the fused logits
    return methods.build(name, build_classifier({"left": (1, 8, 8), "right": (1, 8, 8)}, 3, 0, fused_head=head))


def train(method, config=CONFIG, **arguments):
    data = arguments.pop("data", toy_dataset(seed=1))
    return fit(method, data, toy_dataset(90, seed=2), config, progress=False, **arguments)


def test_a_method_learns_and_history_tells():
    method = make("multi-loss")
    history = train(method, monitors={"other": toy_dataset(90, seed=3)})
    frame = history.frame()
    assert list(frame.index) == [1, 2, 3, 4]
    assert frame["validation accuracy"].iloc[-1] > 0.9 > 0.5 > 1 / 3
    assert {"train fused loss", "train left loss", "train right loss", "other left accuracy"} <= set(frame)
    assert (frame["train fused loss"].diff().dropna() < 0).all()


def test_training_loss_is_weighted_by_batch_size():
    class Constant(Method):
        def step_losses(self, batch):
            zero = sum(parameter.sum() for parameter in self.model.parameters()) * 0
            return {"size": zero + float(len(batch.labels))}

    history = train(Constant(make("erm").model), dataclasses.replace(CONFIG, batch_size=100))
    assert history.frame()["train size loss"].iloc[0] == pytest.approx((100 * 100 + 100 * 100 + 40 * 40) / 240)


def test_evaluate_is_exact_leaves_the_mode_and_ignores_batch_size(toy):
    model = make("erm").model.train()
    whole = evaluate(model, toy, batch_size=512)
    assert model.training
    parts = evaluate(model, toy, batch_size=7)
    assert parts == pytest.approx(whole, rel=1e-6)
    model.eval()
    outputs = model(toy.inputs)
    assert whole["accuracy"] == pytest.approx(float((outputs.fused_logits.argmax(1) == toy.labels).double().mean()))
    assert whole["loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(outputs.fused_logits, toy.labels).item(), rel=1e-5
    )
    assert whole["left accuracy"] == pytest.approx(
        float((outputs.unimodal_logits["left"].argmax(1) == toy.labels).double().mean())
    )


def at(folder, seconds=0):
    """A checkpoint that is written after every epoch."""
    return Checkpoint(folder / "run.pt", "this run", seconds)


class _Interrupt(Exception):
    pass


# One for each way to keep something between epochs; every method is killed in `test_runs`.
@pytest.mark.parametrize("name", ["erm", "swa", "swad", "agm", "pmr", "cmrf", "moosa", "gmm-adaptive", "mbcd"])
def test_an_interrupted_run_resumes_to_the_identical_result(tmp_path, name):
    """Augmentation, dropout, momentum, step decay, averages and counters included."""
    optimiser = "sgd" if name == "erm" else "adam"
    config = dataclasses.replace(
        CONFIG, epochs=8, optimiser=optimiser, learning_rate=0.003, decay_epochs=(5,), decay_factor=0.5
    )
    straight = make(name)
    expected = train(straight, config, augmentations=AUGMENTATIONS)

    interrupted = make(name)
    steps, original = 0, interrupted.after_step

    def after_step():
        nonlocal steps
        original()
        steps += 1
        if steps == 8 * 4 + 3:  # in the middle of the fifth epoch
            raise _Interrupt

    interrupted.after_step = after_step
    checkpoint = at(tmp_path)
    with pytest.raises(_Interrupt):
        train(interrupted, config, augmentations=AUGMENTATIONS, checkpoint=checkpoint)
    assert list(tmp_path.iterdir()) == [checkpoint.path]

    resumed = make(name)
    history = train(resumed, config, augmentations=AUGMENTATIONS, checkpoint=checkpoint)
    assert history.selected_epoch == expected.selected_epoch
    for key, value in straight.predictor.state_dict().items():
        assert torch.equal(value, resumed.predictor.state_dict()[key]), key
    without_time = [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]
    assert without_time == [{k: v for k, v in row.items() if k != "seconds"} for row in expected.rows]


def test_a_finished_checkpoint_is_only_loaded(tmp_path):
    checkpoint = at(tmp_path)
    first, second = make("ema"), make("ema")
    train(first, checkpoint=checkpoint)
    second.step_losses = None  # a training step would fail
    train(second, checkpoint=checkpoint)
    assert torch.equal(first.predictor.fused_head[0].weight, second.predictor.fused_head[0].weight)


def test_a_checkpoint_of_another_run_is_refused_and_stays(tmp_path):
    checkpoint = at(tmp_path)
    train(make("ema"), checkpoint=checkpoint)
    before = checkpoint.path.read_bytes()
    with pytest.raises(ValueError, match=r"run\.pt belongs to another run"):
        train(make("ema"), checkpoint=Checkpoint(checkpoint.path, "another run"))
    assert checkpoint.path.read_bytes() == before


def test_a_damaged_checkpoint_is_set_aside_and_the_training_starts_anew(tmp_path, capsys):
    checkpoint, first, second = at(tmp_path), make("erm"), make("erm")
    train(first, checkpoint=checkpoint)
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:1000])
    train(second, checkpoint=checkpoint)
    assert "and was renamed to run.pt.damaged: the training starts again." in capsys.readouterr().out
    assert torch.equal(first.model.fused_head[0].weight, second.model.fused_head[0].weight)
    assert {path.name for path in tmp_path.iterdir()} == {"run.pt", "run.pt.damaged"}


def test_checkpoints_are_written_no_more_often_than_asked_for(tmp_path):
    train(make("erm"), checkpoint=at(tmp_path, seconds=1000))
    assert not list(tmp_path.iterdir())


def test_a_crash_while_saving_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    checkpoint = at(tmp_path)
    saved = torch.save
    calls = []

    def save(state, file):
        calls.append(1)
        if len(calls) == 3:
            file.write(b"half")
            raise KeyboardInterrupt
        saved(state, file)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(KeyboardInterrupt):
        train(make("erm"), checkpoint=checkpoint)
    assert list(tmp_path.iterdir()) == [checkpoint.path]
    course = torch.load(checkpoint.path, weights_only=True)["courses"]["this run"]
    assert len(course["rows"]) == 2


def test_the_best_validation_epoch_is_kept_and_ties_go_to_the_lower_loss():
    method = make("erm")
    history = train(method, dataclasses.replace(CONFIG, epochs=8))
    frame = history.frame()
    best = frame.sort_values(["validation accuracy", "validation loss"], ascending=[False, True]).index[0]
    assert history.selected_epoch == best
    kept = evaluate(method.predictor, toy_dataset(90, seed=2))
    assert kept["loss"] == pytest.approx(frame.loc[best, "validation loss"])


def test_monitors_never_influence_training():
    plain, watched = make("erm"), make("erm")
    train(plain)
    history = train(watched, monitors={"target": toy_dataset(60, seed=9)}, measure=lambda method: {"seven": 7.0})
    assert history.rows[0]["seven"] == 7.0 and "target accuracy" in history.rows[0]
    assert torch.equal(plain.model.fused_head[0].weight, watched.model.fused_head[0].weight)


def test_what_a_method_watches_is_averaged_by_batch_size():
    method = make("erm")
    original = method.step_losses

    def step_losses(batch):
        method.watched["size"] = torch.tensor(float(len(batch.labels)))
        return original(batch)

    method.step_losses = step_losses
    history = train(method, dataclasses.replace(CONFIG, epochs=1, batch_size=64))
    sizes = [64, 64, 64, 48]  # 240 samples
    assert history.rows[0]["size"] == pytest.approx(sum(size * size for size in sizes) / 240)


def broken_in(data, row, value):
    """The same data with one value of one sample replaced."""
    left = data.inputs["left"].clone()
    left[row, 0, 0, 0] = value
    return dataclasses.replace(data, inputs=data.inputs | {"left": left})


@pytest.mark.parametrize("name", [*methods.GRIDS, "swa", "purified"])
def test_a_sample_that_is_nan_ends_the_training_and_step_and_part_of_the_loss_are_named(name):
    order = torch.arange(96)[torch.randperm(96, generator=torch_generator("shuffle", CONFIG.seed, 1))]
    step = order.tolist().index(17) // 32 + 1
    with pytest.raises(Diverged, match=rf"diverged in epoch 1, step {step} of 3: train \w+.* loss nan"):
        train(make(name, "linear"), data=broken_in(toy_dataset(96), 17, math.nan))


@pytest.mark.parametrize(
    ("rate", "optimiser", "size", "said"),
    [
        (
            1e3,
            "sgd",
            1.0,
            r"ERM diverged in epoch 1, step \d of 8: train fused loss nan. Try a learning_rate below 1000",
        ),
        (1e-3, "adam", 1e30, r"ERM diverged after epoch 1: model.encoders.left.trunk.1.running_var is not finite"),
    ],
)
def test_a_training_that_blows_up_has_no_result(rate, optimiser, size, said):
    config = dataclasses.replace(CONFIG, learning_rate=rate, optimiser=optimiser)
    data = toy_dataset(seed=1)
    data = dataclasses.replace(data, inputs={name: size * value for name, value in data.inputs.items()})
    with pytest.raises(Diverged, match=said):
        train(make("erm", "linear"), config, data=data)


def test_a_selection_by_a_loss_that_is_nan_is_none():
    with pytest.raises(Diverged, match="EMA diverged after epoch 1: its validation loss is nan"):
        fit(make("ema"), toy_dataset(96), broken_in(toy_dataset(90), 3, math.nan), CONFIG, progress=False)


def test_an_average_that_is_broken_after_the_last_epoch_is_none():
    method = make("erm")
    method.on_train_end = lambda *_: method.model.fused_head[0].bias.data.fill_(math.inf)
    with pytest.raises(Diverged, match=r"ERM diverged at the end: model\.fused_head\.0\.bias is not finite"):
        train(method, data=toy_dataset(64))


@pytest.mark.parametrize("name", [*methods.GRIDS, "swa", "purified"])
def test_every_kind_of_input_trains_whatever_is_left_for_the_last_batch(name):
    """65 samples in batches of 32, on maps of one value in the last stage: one sample has no variance there."""
    plain = toy_dataset(65)
    inputs = {
        "halves": plain.inputs["left"].half(),
        "bytes": (20 * plain.inputs["right"] + 128).clamp(0, 255).byte(),
        "loud": 1e8 * plain.inputs["right"],
    }
    data = MultimodalDataset.from_arrays(inputs, plain.labels)
    options = {"gmm-adaptive": {"warm_up": 1}, "purified": {"warm_up": 1}}.get(name, {})
    method = methods.build(name, build_classifier(data.input_shapes, 3, 0), **options)
    sizes, original = [], method.step_losses
    method.step_losses = lambda batch: sizes.append(len(batch.labels)) or original(batch)
    history = fit(method, data, data, dataclasses.replace(CONFIG, epochs=2), progress=False)
    assert sizes == [32, 33] * 2 and len(history.rows) == 2


def test_one_sample_is_no_training_set():
    with pytest.raises(ValueError, match="at least two samples"):
        train(make("erm"), data=toy_dataset(1))


def test_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    train(make("erm"))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"optimiser": "lion"},
        {"learning_rate": -1.0},
        {"decay_factor": 0.0},
        {"precision": "int4"},
    ],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ValueError, match=f"TrainingConfig: {next(iter(wrong))} must be "):
        TrainingConfig(**wrong)


@pytest.mark.parametrize("name", ["erm", "ogm-ge", "gmm-adaptive", "mbcd"])
def test_a_captured_step_stands_for_all_of_its_size_in_an_epoch(name, monkeypatch):
    """With the step itself in place of its graph: which batches take part, and what is read and written."""
    replayed = []

    def captured(self):
        def replay():
            replayed.append(len(self.batch.labels))
            for part, loss in self.step(self.batch).items():
                self.losses.setdefault(part, torch.zeros(())).copy_(loss.detach())

        return replay

    config = dataclasses.replace(CONFIG, epochs=3)
    data = toy_dataset(190, seed=1)
    plain, stood_for = (make(name, "linear") for _ in range(2))
    expected = train(plain, config, data=data)
    monkeypatch.setattr(CapturedStep, "_captured", captured)
    monkeypatch.setattr(CapturedStep, "_eager", lambda self, batch: self.step(batch))
    object.__setattr__(config, "capture", True)  # which is refused without a GPU
    optimiser_of = loop.optimiser_of
    monkeypatch.setattr(loop, "optimiser_of", lambda method, _: optimiser_of(method, CONFIG))
    found = train(stood_for, config, data=data)
    assert replayed == [32, 32] * 3, "of 32, 32, 32, 32, 32 and 30, after three ordinary ones in each epoch"
    without_time = [[row | {"seconds": 0} for row in history.rows] for history in (found, expected)]
    assert without_time[0] == without_time[1]
    for value, other in zip(plain.state_dict().values(), stood_for.state_dict().values(), strict=True):
        assert torch.equal(value, other)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_capturing_without_a_gpu_is_refused():
    with pytest.raises(ValueError, match="capture=True makes CUDA graphs and needs a GPU"):
        TrainingConfig(capture=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_asking_for_a_gpu_that_is_not_there_fails_loudly():
    with pytest.raises(ValueError, match="there are 0 CUDA devices"):
        TrainingConfig(device="cuda")


@pytest.mark.parametrize("name", ["mps", "xpu:0", "gpu"])
def test_what_is_neither_a_cpu_nor_a_cuda_device_is_refused(name):
    """On any system: torch itself takes "mps" on Linux, until the first tensor moves there."""
    with pytest.raises(ValueError, match=rf"device must be auto, cpu, .* \(on a Mac, the CPU is used\), not '{name}'"):
        TrainingConfig(device=name)


@pytest.mark.parametrize(("precision", "expected"), [("float32", False), ("tf32", True)])
def test_tf32_is_off_unless_asked_for_and_the_setting_is_restored(precision, expected):
    seen = set()

    class Watching(methods.ERM):
        def step_losses(self, batch):
            seen.add((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
            return super().step_losses(batch)

    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    train(Watching(make("erm").model), dataclasses.replace(CONFIG, epochs=1, precision=precision))
    assert seen == {(expected, expected)}
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_bfloat16_autocast_learns_as_well():
    method = make("erm")
    train(method, dataclasses.replace(CONFIG, precision="bfloat16"))
    assert evaluate(method.predictor, toy_dataset(90, seed=2))["accuracy"] > 0.85


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnTheGpu:
    def test_training_agrees_with_the_cpu(self):
        on_cpu, on_gpu = make("ema", "linear"), make("ema", "linear")
        config = dataclasses.replace(CONFIG, epochs=1)
        first = train(on_cpu, config).frame()
        second = train(on_gpu, dataclasses.replace(config, device="cuda")).frame()
        assert second["train fused loss"].iloc[0] == pytest.approx(first["train fused loss"].iloc[0], rel=1e-3)

    @pytest.mark.parametrize("name", ["multi-loss", "mbcd: GCC+EMA+DL", "mbcd: second-order", "rna-net", "mmpareto"])
    def test_a_step_agrees_with_the_cpu(self, name):
        """In double precision, so that nothing but a difference in what is computed is left."""
        gradients, losses = {}, {}
        for device in ("cpu", "cuda"):
            method = make(name, "linear").double().to(device).train()
            method.dropout = 0  # of MBCD: the devices would draw different masks
            method.on_train_start(10, 10)
            batch = next(toy_dataset(seed=1).to(device).batches(32))
            batch = batch._replace(inputs={key: value.double() for key, value in batch.inputs.items()})
            found = method.step_losses(batch)
            method.backward(found)
            losses[device] = torch.stack([loss.detach().cpu() for loss in found.values()])
            parts = [value.grad.flatten().cpu() for value in method.parameters() if value.grad is not None]
            gradients[device] = torch.cat(parts)
        assert torch.allclose(losses["cuda"], losses["cpu"], rtol=1e-9)
        assert torch.allclose(gradients["cuda"], gradients["cpu"], rtol=1e-6, atol=1e-9)

    @pytest.mark.parametrize("name", [*methods.GRIDS, "mbcd: second-order"])
    def test_the_step_never_waits_for_the_device(self, name):
        method = make(name)
        data = toy_dataset(seed=1).to("cuda")
        method.to("cuda").on_train_start(10, 10)
        optimiser = torch.optim.Adam(method.model.parameters(), fused=True)
        batch = next(data.batches(32))
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                losses = method.step_losses(batch)
                optimiser.zero_grad(set_to_none=True)
                sum(losses.values()).backward()
                optimiser.step()
                method.after_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    @pytest.mark.parametrize(
        "name", [name for name in methods.GRIDS if all(kind.static for kind in methods.variant(name).classes)]
    )
    def test_captured_training_agrees_with_ordinary_training(self, name):
        config = dataclasses.replace(CONFIG, epochs=2, device="cuda")
        trained, rows = [], []
        for capture in (False, True):
            trained.append(make(name, "linear"))
            history = train(trained[-1], dataclasses.replace(config, capture=capture), data=toy_dataset(250, seed=1))
            rows.append([{key: value for key, value in row.items() if "train" in key} for row in history.rows])
        for first, second in zip(*rows, strict=True):
            assert second == pytest.approx(first, rel=1e-6, abs=1e-6)
        for one, two in zip(*(method.state_dict().values() for method in trained), strict=True):
            assert torch.allclose(one.float(), two.float(), rtol=1e-6, atol=1e-6)
