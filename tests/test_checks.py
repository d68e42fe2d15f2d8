import math

import numpy as np
import pytest

from mmlib.checks import SHARE, Number, Text, Whole, check


def test_what_is_allowed_passes():
    check(
        {
            "rate": 0.5,
            "epochs": np.int64(3),
            "name": "adam",
            "dropout": "adaptive",
            "fast": True,
            "place": "north",
            "left out": None,
        },
        {
            "rate": SHARE,
            "epochs": Whole(1),
            "name": ("adam", "sgd"),
            "dropout": ("adaptive", Number(0, 1, below=True)),
            "fast": bool,
            "place": Text("north|south", "a pole"),
        },
    )


@pytest.mark.parametrize(
    ("value", "allowed", "message"),
    [
        (1.5, SHARE, "x must be a number in 0 … 1, not 1.5."),
        (math.nan, SHARE, "x must be a number in 0 … 1, not nan"),
        ("1", SHARE, "x must be a number in 0 … 1, not '1'"),
        (True, Whole(0), "x must be an integer of at least 0, not True."),
        (2.0, Whole(1, 5), "x must be an integer in 1 … 5, not 2.0."),
        (1, Number(0, 1, below=True), r"x must be a number in \[0, 1\), not 1."),
        (0, Number(0, 1, above=True), r"x must be a number in \(0, 1\], not 0."),
        (0, Number(0, above=True), "x must be a number above 0, not 0."),
        ("x", Number(), "x must be a number, not 'x'."),
        ("cats", ("a", "b"), "x must be one of a, b, not 'cats'."),
        (1.0, ("adaptive", Number(0, 1, below=True)), r"x must be 'adaptive' or a number in \[0, 1\), not 1.0."),
        (1.0, int, "x must be an integer, not 1.0."),
        (1, bool, "x must be True or False, not 1."),
        (1, str, "x must be text, not 1."),
        ("northern", Text("north|south", "a pole"), "x must be a pole, not 'northern'."),
        (1, ("both", Text("north|south", "a pole")), "x must be 'both' or a pole, not 1."),
    ],
)
def test_what_is_not_allowed_is_said_in_one_sentence(value, allowed, message):
    with pytest.raises(ValueError, match=f"^Owner: {message}"):
        check({"x": value}, {"x": allowed}, "Owner")
