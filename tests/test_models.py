import pytest
import torch

from mmlib.models import (
    MultimodalClassifier,
    ResNet18,
    SlowFast,
    SlowOnly,
    SmallConvNet,
    build_classifier,
    is_frozen,
)

SHAPES = {"audio": (1, 40, 49), "image": (3, 32, 32)}


def inputs(batch=6, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(batch, *shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("fusion", ["concat", "sum", "gated"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_shapes_and_the_definition(fusion, head):
    model = build_classifier(SHAPES, 5, 0, fusion=fusion, fused_head=head).eval()
    outputs = model(inputs())
    assert outputs.fused_logits.shape == (6, 5)
    for name in SHAPES:
        feature = torch.nn.functional.layer_norm(model.encoders[name](inputs()[name]), (64,))
        assert torch.allclose(outputs.features[name], feature, atol=1e-5)
        assert torch.allclose(outputs.unimodal_logits[name], model.unimodal_heads[name](feature), atol=1e-5)
    if fusion == "concat":
        joined = torch.cat([outputs.features["audio"], outputs.features["image"]], 1)
        assert torch.allclose(outputs.fused_logits, model.fused_head(joined))
    if fusion == "sum":
        total = outputs.features["audio"] + outputs.features["image"]
        assert torch.allclose(outputs.fused_logits, model.fused_head(total))


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
        (lambda: build_classifier(SHAPES, 5, 0, fusion="magic"), "fusion must be"),
        (lambda: build_classifier(SHAPES, 5, 0, fused_head="tail"), "fused_head must be"),
        (lambda: MultimodalClassifier({}, 5), "at least one encoder"),
        (lambda: SmallConvNet((32, 32)), r"reads \(channels, height, width\)"),
        (lambda: SlowFast((3, 30, 32, 32)), "a multiple of 4 frames, not 30"),
        (lambda: SlowOnly((3, 32, 32)), r"SlowOnly reads \(channels, frames, height, width\)"),
        (lambda: ResNet18((32,)), "ResNet18 reads"),
        (
            lambda: MultimodalClassifier(
                {"a": SmallConvNet((1, 8, 8), 4), "b": SmallConvNet((1, 8, 8), 8)}, 3, fusion="sum"
            ),
            "features of one length",
        ),
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
