"""The check of a set-up cell, and how it is read without being run."""

import pytest

from mmlib.notebook.parameters import SHARED, BadParameter, Settings, own_of

CHOSEN = {"dataset": "spoken_digits", "target": "auto", "seeds": 3, "first_seed": 5, "epochs": 8, "device": "cpu"}


def test_parameters_become_attributes_and_what_follows_from_them():
    settings = Settings(CHOSEN | {"batch_size": 16, "grain": 2, "unrelated": object()}, grain=(1, 4))
    assert (settings.seeds, settings.grain) == (3, 2) and not hasattr(settings, "unrelated")
    assert list(settings.numbers) == [5, 6, 7]
    assert settings.targets(("ink", "chalk")) == ("chalk",)
    assert Settings(CHOSEN | {"target": "ink"}).targets(("ink", "chalk")) == ("ink",)
    assert Settings(CHOSEN | {"target": "all"}, target=("all", str)).targets(("ink", "chalk")) == ("ink", "chalk")
    training = settings.training(decay_epochs=(3,))
    assert (training.epochs, training.batch_size, training.device, training.decay_epochs) == (8, 16, "cpu", (3,))


@pytest.mark.parametrize(
    ("wrong", "own", "message"),
    [
        ({"seeds": "3"}, {}, "seeds must be an integer in 2 … 100, not '3'"),
        ({"seeds": True}, {}, "seeds must be an integer in 2 … 100, not True"),
        ({"seeds": 1}, {}, "seeds must be an integer in 2 … 100, not 1"),
        ({"dataset": "cats"}, {}, "dataset must be one of spoken_digits, av_digits, not 'cats'"),
        ({"target": "moon"}, {}, "target must be one of auto, ink, chalk, contour, not 'moon'"),
        ({"target": "all"}, {}, "target must be one of auto, ink, chalk, contour, not 'all'"),
        ({"target": "moon"}, {"target": ("auto", "all", str)}, "one of auto, all, ink, chalk, contour, not 'moon'"),
        ({"epochs": 3}, {"epochs": (4, 1000)}, "epochs must be an integer in 4 … 1000, not 3"),
        ({"rate": 2.0}, {"rate": (0.0, 1.0)}, "rate must be a number in 0.0 … 1.0, not 2.0"),
        ({"rate": float("nan")}, {"rate": (0.0, 1.0)}, "rate must be a number"),
        ({"name": 1}, {"name": str}, "name must be text, not 1"),
        ({"fast": 1}, {"fast": bool}, "fast must be True or False, not 1"),
        ({"grain": 1.0}, {"grain": int}, "grain must be an integer, not 1.0"),
        ({"warm_up": 8}, {}, "warm_up must be shorter than training, 8 epochs; it is 8"),
        ({"dataset": "av_digits", "flow": True}, {"flow": bool}, "flow exists in spoken_digits only"),
        ({}, {"volume": (1, 11)}, "There is no parameter volume to check"),
    ],
)
def test_what_is_wrong_is_named(wrong, own, message):
    with pytest.raises(BadParameter, match=message):
        Settings(CHOSEN | wrong, **own)


def test_a_data_set_says_which_protocols_frames_and_domains_it_has():
    clips = {"benchmark": "cremad", "protocol": "actors", "frames": 3}
    own = {"benchmark": ("cremad", "ave"), "protocol": ("auto", str), "frames": int}
    assert Settings(clips, **own).protocol == "actors" and Settings(clips | {"protocol": "auto"}, **own).frames == 3
    for wrong, message in (
        ({"benchmark": "hac"}, "benchmark must be one of cremad, ave, not 'hac'"),
        ({"protocol": "best"}, "protocol must be one of auto, ogm-val, ogm, actors, not 'best'"),
        ({"frames": 4}, "frames must be an integer in 1 … 3, not 4"),
        ({"benchmark": "ave"}, "protocol must be one of auto, official, not 'actors'"),
    ):
        with pytest.raises(BadParameter, match=message):
            Settings(clips | wrong, **own)
    transfer = {"benchmark": "hac", "target": "kitchen"}
    with pytest.raises(BadParameter, match="target must be one of auto, all, human, animal, cartoon, not 'kitchen'"):
        Settings(transfer, benchmark=("hac",), target=("auto", "all", str))


def test_the_call_is_read_and_nothing_is_run():
    call = "import nowhere\nsettings = Settings(globals(), a=(1, 2), b=('x', str), c=bool)\nboom()"
    assert own_of(["for", "print(1)", call]) == {"a": (1, 2), "b": ("x", str), "c": bool}
    assert own_of(["for", "print(1)"]) is None
    assert own_of(["%matplotlib inline\nSettings(globals(), a=int)"]) == {"a": int}
    for written in ("range(3)", "5", "'fast'", "{[1]}", "None"):
        with pytest.raises(BadParameter, match="The allowed values of a must be literals, not "):
            own_of([f"Settings(globals(), a={written})"])


def test_every_shared_parameter_says_what_it_means():
    assert all(shared.meaning for shared in SHARED.values())
