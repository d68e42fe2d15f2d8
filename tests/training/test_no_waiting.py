"""Nothing in a step makes the processor wait for a GPU: shown without one, on devices that hold no numbers."""

import inspect

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmlib import methods
from mmlib.data import transforms
from mmlib.data.clips import ave, cremad, epic_kitchens, hac, kinetics_sounds
from mmlib.data.dataset import LOSSES, Batch
from mmlib.equations.mixture import Mixture
from mmlib.models import build_classifier

CHOSEN = [*methods.GRIDS, "swa", "purified", "mbcd: second-order", "gmm-adaptive, stage two"]
READS_BACK = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim"}


class Watching(TorchDispatchMode):
    """Notes what is computed, with every plain number that goes into it, and refuses whatever waits for the device: a
    value that is read back, a size that depends on values, a copy from another device or to one."""

    def __init__(self) -> None:
        super().__init__()
        self.computed: list[tuple[object, ...]] = []
        self.made: list[torch.Tensor] = []  # kept alive, so that no storage is taken for another
        self.given: set[int] = set()  # storages that existed before

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.__name__.split(".")[0]
        leaves = tree_leaves((arguments, options or {}))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        assert name not in READS_BACK, f"{name} waits for the device"
        assert not ("index" in name and any(one.dtype == torch.bool for one in tensors[1:])), (
            f"a mask selects in {name}"
        )
        if name == "_sample_dirichlet":  # of which torch knows no shapes
            result = torch.empty_like(arguments[0])
        else:
            result = function(*arguments, **options or {})
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        devices = {one.device for one in (*tensors, *results)}
        assert len(devices) < 2, f"{name} copies between {devices}"
        self.given |= {key(one) for one in tensors} - {key(one) for one in self.made}
        self.made += results
        shapes = [tuple(one.shape) for one in tensors]
        self.computed.append((function, shapes, [leaf for leaf in leaves if isinstance(leaf, int | float | bool)]))
        return result


def key(tensor):
    return tensor.untyped_storage()._cdata


def on_device(device, module):
    """The module with tensors of the same shapes and without numbers on another device; those it shares stay shared."""
    moved = {}

    def there(tensor):
        if id(tensor) not in moved:
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
            moved[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        return moved[id(tensor)]

    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            tensors.update({name: there(tensor) for name, tensor in tensors.items() if tensor is not None})
    return module


def on_meta(name):
    """A method, its optimiser and a batch on the device without numbers, ready for a step."""
    shapes = {"left": (1, 8, 8), "right": (1, 8, 8)}
    method = on_device("meta", methods.build(name.split(",")[0], build_classifier(shapes, 3, 0)))
    method.on_train_start(10, 5)
    method.train()
    if "stage two" in name:
        method.scores = torch.empty(2, 32, device="meta")
        method.imbalance, method.weights = method.scores.unbind()
        method.weakest = torch.empty(32, dtype=torch.int64, device="meta")
        method.mixture = Mixture(*torch.empty(3, 2, dtype=torch.float64, device="meta"), method.scores.sum(), 32)
    labels = torch.empty(32, dtype=torch.int64, device="meta")
    inputs = {key: torch.empty(32, *shape, device="meta") for key, shape in shapes.items()}
    return method, Batch(inputs, labels, labels, labels)


def watched_step(method, batch):
    """What the losses and gradients of a step take; the rest of the step is looked at for waits alone."""
    with Watching() as watching:
        losses = method.step_losses(batch)
        method.backward(losses)
    names = {name for name in losses if " " not in name}  # of two words, one is a modality's
    assert names <= {*LOSSES, *batch.inputs}, "no modality may be called like a part of a loss"
    method.zero_grad()
    with Watching():
        method.after_step()
    return watching


@pytest.mark.parametrize("name", CHOSEN)
def test_no_step_waits_and_where_a_method_says_so_all_steps_are_alike(name):
    """Alike: the same operations with the same plain numbers on the same tensors; a captured step can stand for it."""
    method, batch = on_meta(name)
    first, second = watched_step(method, batch), watched_step(method, batch)
    assert (first.computed == second.computed and first.given == second.given) == method.static


def test_what_is_drawn_on_the_cpu_or_counted_inside_is_not_alike():
    model = build_classifier({"left": (1, 8, 8), "right": (1, 8, 8)}, 3, 0)
    assert not methods.MBCD(model, dsu=0.5).static and methods.MBCD(model).static
    assert not methods.EMA(methods.AGM(model)).static and methods.EMA(methods.ERM(model)).static


class OnGpu(torch.Generator):
    """Its numbers are drawn on the GPU, as far as anybody asks."""

    device = torch.device("cuda")


BENCHMARKS = {
    module.__name__.split(".")[-1]: module.BENCHMARK for module in (ave, cremad, epic_kitchens, hac, kinetics_sounds)
}


def transforms_of_data_sets():
    """Name → a transform, and what it reads: every front end and augmentation of every data set."""
    spectrogram, image, sound = torch.empty(4, 1, 40, 49), torch.empty(4, 1, 28, 28), torch.empty(4, 16000)
    yield "digits: log-mel", transforms.LogMel(), sound
    yield "digits: image", transforms.ScaleImages(), image.byte()
    for augmentation in (transforms.shift_and_spec_augment, transforms.spec_augment):
        yield f"digits: {augmentation.__name__}", augmentation, spectrogram
    for augmentation in (transforms.random_shift, transforms.mask_rows_and_columns):
        yield f"digits: {augmentation.__name__}", augmentation, image
    for name, benchmark in BENCHMARKS.items():
        for modality, front_end in benchmark.front_ends.items():
            stored = sound.short()
            if isinstance(front_end, transforms.FrameCrop):
                stored = torch.empty(2, 12, 64, 80, len(front_end.mean), dtype=torch.uint8)
                yield f"{name}: crops of {modality}", front_end.random, stored
            yield f"{name}: {modality}", front_end, stored
        for modality, augmentation in benchmark.augmentations.items():
            yield f"{name}: augmented {modality}", augmentation, sound.short()


def test_no_front_end_and_no_augmentation_waits():
    listed = list(transforms_of_data_sets())
    with FakeTensorMode():
        for name, function, stored in listed:
            function = on_device("cuda", function) if isinstance(function, nn.Module) else function
            draws = ["generator"] if "generator" in inspect.signature(function).parameters else []
            given = torch.empty(stored.shape, dtype=stored.dtype, device="cuda")
            with Watching() as watching:
                result = function(given, *(OnGpu() for _ in draws))
            assert result.device.type == "cuda" and result.dtype == torch.float32 and watching.computed, name


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: (x > 0).nonzero(),
        lambda x: x.cpu(),
        lambda x: torch.zeros(3).to(x.device),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0], device=x.device),
    ],
)
def test_what_waits_is_found(wait):
    with FakeTensorMode(), pytest.raises(AssertionError), Watching():
        wait(torch.empty(3, device="cuda"))
