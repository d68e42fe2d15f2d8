import dataclasses

import pytest
import torch

from mmlib.data.clips.stand_in import load_or_stand_in
from mmlib.models import (
    Architecture,
    MultimodalClassifier,
    ResNet18,
    SlowFast,
    SlowOnly,
    SmallConvNet,
    build_classifier,
    is_frozen,
)
from mmlib.models.activations import with_cached_activations
from mmlib.models.architecture import load_published, published_files, published_names
from mmlib.training import Run, TrainingConfig, train_runs

SHAPES = {"audio": (1, 40, 49), "image": (3, 32, 32)}


def inputs(batch=6, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(batch, *shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_shapes_and_the_definition(head):
    model = build_classifier(SHAPES, 5, 0, fused_head=head).eval()
    outputs = model(inputs())
    assert outputs.fused_logits.shape == (6, 5)
    for name in SHAPES:
        feature = torch.nn.functional.layer_norm(model.encoders[name](inputs()[name]), (64,))
        assert torch.allclose(outputs.features[name], feature, atol=1e-5)
        assert torch.allclose(outputs.unimodal_logits[name], model.unimodal_heads[name](feature), atol=1e-5)
    joined = torch.cat([outputs.features["audio"], outputs.features["image"]], 1)
    assert torch.allclose(outputs.fused_logits, model.fused_head(joined))


def test_a_lost_modality_is_zeros_after_the_norm_for_the_fused_head_only():
    model = build_classifier(SHAPES, 5, 0).eval()
    keep = torch.tensor([[1.0, 0.0]] * 3 + [[1.0, 1.0]] * 3)
    whole, partial = model(inputs()), model(inputs(), keep)
    joined = torch.cat([whole.features["audio"], torch.zeros(6, 64)], 1)
    assert torch.allclose(partial.fused_logits[:3], model.fused_head(joined)[:3])
    assert torch.equal(partial.fused_logits[3:], whole.fused_logits[3:])
    assert torch.equal(partial.unimodal_logits["image"], whole.unimodal_logits["image"])


def test_any_number_of_modalities_and_others_are_ignored():
    for names in (["audio"], ["audio", "image", "flow"]):
        shapes = {name: (1, 16, 16) for name in names}
        model = build_classifier(shapes, 4, 0).eval()
        extra = inputs(2, {**shapes, "smell": (7,)})
        assert model(extra).fused_logits.shape == (2, 4)


def test_joint_and_unimodal_models_of_one_seed_begin_with_the_same_encoders():
    joint = build_classifier(SHAPES, 5, 3)
    alone = build_classifier({"image": SHAPES["image"]}, 5, 3)
    other = build_classifier(SHAPES, 5, 4)
    for name, value in alone.encoders["image"].state_dict().items():
        assert torch.equal(value, joint.encoders["image"].state_dict()[name])
    assert not torch.equal(joint.encoders["image"].head[1].weight, other.encoders["image"].head[1].weight)
    before = torch.random.get_rng_state()
    build_classifier(SHAPES, 5, 0)
    assert torch.equal(before, torch.random.get_rng_state()), "no global state is touched"


def count_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_resnet_reads_any_channels_and_averages_frames():
    assert count_parameters(ResNet18((3, 224, 224))) == 11_176_512
    assert count_parameters(ResNet18((1, 257, 188))) == 11_176_512 - 2 * 64 * 49
    network = ResNet18((3, 3, 64, 64)).eval()
    video = torch.randn(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    of_images = ResNet18((3, 64, 64)).eval()
    of_images.load_state_dict(network.state_dict())
    by_frame = torch.stack([of_images(video[:, :, frame]) for frame in range(3)]).mean(0)
    assert torch.allclose(network(video), by_frame, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: build_classifier(SHAPES, 5, 0, encoder="vit"),
            "no encoder 'vit'; choose one of small, resnet18, slowfast-r101, slowonly-r50",
        ),
        (lambda: build_classifier(SHAPES, 5, 0, fused_head="tail"), "fused_head must be"),
        (lambda: MultimodalClassifier({}, 5), "at least one encoder"),
        (lambda: SmallConvNet((32, 32)), r"reads \(channels, height, width\)"),
        (lambda: SlowFast((3, 30, 32, 32)), "a multiple of 4 frames, not 30"),
        (lambda: SlowOnly((3, 32, 32)), r"SlowOnly reads \(channels, frames, height, width\)"),
        (lambda: ResNet18((32,)), "ResNet18 reads"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_encoder_is_its_parts_in_a_row():
    for encoder in (SmallConvNet((1, 16, 16)), ResNet18((1, 32, 32))):
        encoder.eval()
        images = torch.randn(2, *((1, 16, 16) if isinstance(encoder, SmallConvNet) else (1, 32, 32)))
        assert torch.equal(encoder(images), encoder.head(encoder.last_stage(encoder.trunk(images))))


def test_parameter_counts_are_the_published_ones():
    """With their heads of 400 classes. OpenMMLab's SlowFast-R101 8 × 8 has lateral kernels of seven frames; the 62.8 M
    that are often quoted are those of the paper's five."""
    slow_fast, slow_only = SlowFast((3, 32, 224, 224)), SlowOnly((3, 8, 224, 224))
    with_head = count_parameters(slow_fast) + 2304 * 400 + 400
    laterals = sum(p.numel() for name, p in slow_fast.named_parameters() if "lateral" in name)
    assert round((with_head - laterals * 2 / 7) / 1e6, 1) == 62.8 and round(with_head / 1e6, 1) == 62.9
    assert round((count_parameters(slow_only) + 2048 * 400 + 400) / 1e6, 1) == 32.5


def test_slow_fast_is_its_definition_from_the_parts_of_both_pathways():
    """The trunk's one tensor hides nothing: pathways written out, layer4 and the means included."""
    network = SlowFast((3, 8, 32, 32), depth=50).eval()
    video = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    slow_path, fast_path = network.trunk.slow_path, network.trunk.fast_path
    with torch.no_grad():
        slow = network.trunk.pool(slow_path["conv1"](video[:, :, ::4]))
        fast = network.trunk.pool(fast_path["conv1"](video))
        for number in range(4):
            lateral = slow_path["conv1_lateral" if number == 0 else f"layer{number}_lateral"](fast)
            assert lateral.shape[1] == 2 * fast.shape[1] and lateral.shape[2:] == slow.shape[2:]
            slow = torch.cat([slow, lateral], 1)
            stages = (
                (slow_path, fast_path) if number < 3 else (network.last_stage.slow_path, network.last_stage.fast_path)
            )
            slow, fast = (stage[f"layer{number + 1}"](maps) for stage, maps in zip(stages, (slow, fast), strict=True))
        expected = torch.cat([slow.mean((2, 3, 4)), fast.mean((2, 3, 4))], 1)
        assert slow.shape[1:3] == (2048, 2) and fast.shape[1:3] == (256, 8)
        assert torch.allclose(network(video), expected, atol=1e-4)


class TestPublishedWeights:
    MADE = {  # noqa: RUF012
        "video": lambda: SlowFast((3, 8, 32, 32)),
        "flow": lambda: SlowOnly((2, 8, 32, 32)),
        "audio": lambda: ResNet18((1, 65, 65)),
    }
    HEADS = {"video": "cls_head.fc_cls.weight", "flow": "cls_head.fc_cls.bias", "audio": "audnet.fc.weight"}  # noqa: RUF012
    KEYS = {"video": "state_dict", "flow": "state_dict", "audio": "model_state_dict"}  # noqa: RUF012

    def published(self, modality, path, change=lambda state: None):
        """A file as it is published: names of its own, a head, and things beside the weights."""
        torch.manual_seed(1)
        encoder = self.MADE[modality]()
        names = published_names(encoder)
        state = {names[name]: value for name, value in encoder.state_dict().items()}
        state[self.HEADS[modality]] = torch.zeros(3)
        change(state)
        torch.save({"meta": {"epoch": 3}, self.KEYS[modality]: state}, path)
        return encoder

    @pytest.mark.parametrize("modality", ["video", "flow", "audio"])
    def test_a_round_trip(self, modality, tmp_path):
        written = self.published(modality, tmp_path / "w.pth")
        read = self.MADE[modality]()
        load_published(read, str(tmp_path / "w.pth"))
        expected = written.state_dict()
        for name, value in read.state_dict().items():
            assert torch.equal(value, expected[name]), name

    def test_names_are_those_of_the_published_files(self):
        names = {modality: set(published_names(make()).values()) for modality, make in self.MADE.items()}
        assert {
            "backbone.slow_path.conv1.conv.weight",
            "backbone.slow_path.conv1_lateral.conv.weight",
            "backbone.slow_path.layer3_lateral.conv.weight",
            "backbone.slow_path.layer3.22.conv3.bn.running_var",
            "backbone.fast_path.layer4.0.downsample.conv.weight",
        } <= names["video"]
        assert {"backbone.conv1.bn.bias", "backbone.layer4.2.conv1.conv.weight"} <= names["flow"]
        assert {"audnet.conv1.weight", "audnet.layer4.0.downsample.0.weight", "audnet.bn1.running_mean"} <= names[
            "audio"
        ]

    def test_whatever_does_not_fit_is_listed(self, tmp_path):
        def spoil(state):
            del state["audnet.conv1.weight"]
            state["audnet.layer9.weight"] = torch.zeros(1)
            state["audnet.bn1.bias"] = torch.zeros(65)

        self.published("audio", tmp_path / "w.pth", spoil)
        with pytest.raises(ValueError, match="does not fit ResNet18") as error:
            load_published(ResNet18((1, 65, 65)), str(tmp_path / "w.pth"))
        for expected in (
            "audnet.conv1.weight is missing",
            "audnet.layer9.weight is not known",
            "audnet.bn1.bias has shape (65,), expected (64,)",
        ):
            assert expected in str(error.value)

    def test_a_file_that_is_a_program_is_refused(self, tmp_path):
        torch.save({"state_dict": ResNet18((1, 65, 65))}, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=r"w\.pth is not a file of plain weights"):
            load_published(ResNet18((1, 65, 65)), str(tmp_path / "w.pth"))

    def test_missing_files_are_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"H\.pth\.tar is missing; .*epic_kitchens --help"):
            published_files(str(tmp_path), ["audio"])

    def test_weights_that_were_unpacked_are_named(self, tmp_path):
        (tmp_path / "H.pth.tar").mkdir()
        with pytest.raises(FileNotFoundError, match=r"H\.pth\.tar is a folder: .* was unpacked\. It is no archive"):
            published_files(str(tmp_path), ["audio"])


class TestCachedActivations:
    ARCHITECTURE = Architecture(encoders=(("flow", "slowonly-r50"), ("audio", "resnet18")), frozen=True)

    @pytest.fixture
    def splits(self, cache):
        splits = load_or_stand_in("hac", "stand-in", modalities=("flow", "audio"))
        thinned = {"train": splits.train.thinned(9), "validation": splits.validation.thinned(9)}
        return dataclasses.replace(splits, **thinned, test=splits.test.thinned(7), augmentations={})

    def test_training_from_them_starts_where_the_whole_network_is(self, splits):
        kept, shorter = with_cached_activations(splits, self.ARCHITECTURE, torch.device("cpu"))
        whole = self.ARCHITECTURE.build(splits.train.input_shapes, 7, 0).eval()
        cut = shorter.build(kept.train.input_shapes, 7, 0).eval()
        with torch.no_grad():
            expected = whole(splits.train.whole().inputs)
            found = cut(kept.train.whole().inputs)
        assert torch.allclose(found.fused_logits, expected.fused_logits, atol=2e-2), "kept with half precision"
        assert not torch.allclose(found.fused_logits[:1], found.fused_logits[1:2], atol=2e-2)
        assert count_parameters(cut) < count_parameters(whole) / 1.3
        assert torch.equal(kept.test.labels, splits.test.labels) and len(kept.test.whole().inputs["flow"]) == 7

    def test_they_are_computed_once_and_again_where_they_are_damaged(self, splits, monkeypatch, cache, capsys):
        first, _ = with_cached_activations(splits, self.ARCHITECTURE, torch.device("cpu"))
        path = cache / "activations" / f"{first.train.inputs['flow'].content}.npy"
        path.write_bytes(path.read_bytes()[:-1])
        with_cached_activations(splits, self.ARCHITECTURE, torch.device("cpu"))
        assert f"and was renamed to {path.name}.damaged: it is made again." in capsys.readouterr().out
        monkeypatch.setattr(SlowOnly, "forward", None)
        again, _ = with_cached_activations(splits, self.ARCHITECTURE, torch.device("cpu"))
        assert again.train.fingerprint() == first.train.fingerprint() != splits.train.fingerprint()

    def test_what_training_augments_stays(self, splits):
        augmented = dataclasses.replace(splits, augmentations={"flow": lambda frames, generator: frames})
        kept, shorter = with_cached_activations(augmented, self.ARCHITECTURE, torch.device("cpu"))
        assert [name for name, _ in shorter.trunks_of] == ["audio"]
        assert kept.train.inputs["flow"].content == splits.train.inputs["flow"].content

    def test_trunks_that_learn_cannot_be_kept(self, splits):
        with pytest.raises(ValueError, match="the architecture is not frozen"):
            with_cached_activations(splits, Architecture(), torch.device("cpu"))

    def test_runs_are_kept_without_frozen_trunks_and_load_as_they_were(self, splits, tmp_path, monkeypatch):
        monkeypatch.setenv("MMLIB_CACHE", str(tmp_path))
        monkeypatch.setattr("mmlib.training.run.WEIGHTS_KEPT", 0)
        runs = [Run(method, "human", 3, ("audio",)) for method in ("ema", "swa")]
        config = TrainingConfig(epochs=1, batch_size=4, device="cpu")
        options = {"architecture": self.ARCHITECTURE, "jobs": 1}
        results = zip(*(train_runs(runs, splits, config, **options) for _ in range(2)), strict=True)
        for trained, loaded in results:
            assert loaded.loaded and not trained.loaded and loaded.scores == trained.scores
            for part in ("predictor", "network"):
                for name, value in getattr(trained, part).state_dict().items():
                    assert torch.equal(value, getattr(loaded, part).state_dict()[name]), name
        size = next((tmp_path / "runs").iterdir()).stat().st_size
        assert size < 2.2 * 4 * count_parameters(trained.network.encoders["audio"].last_stage)


def test_frozen_trunks_keep_their_weights_and_statistics():
    model = build_classifier(SHAPES, 5, 0)
    model.freeze_trunks()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model.train()(inputs()).fused_logits.square().sum().backward()
    optimiser.step()
    for name, value in model.state_dict().items():
        frozen = ".trunk." in name or name.startswith("unimodal_heads")
        assert torch.equal(value, before[name]) == frozen, name
    assert is_frozen(model.encoders["audio"].trunk) and not is_frozen(model.encoders["audio"].last_stage)
