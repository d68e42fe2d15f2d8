"""Parameters from the command line and YAML."""

import pytest
from conftest import write_notebook

from mmlib.batch.given import check_against_notebook, parse_assignments
from mmlib.notebook.parameters import BadParameter


@pytest.fixture
def notebook(tmp_path):
    parameters = 'seeds: int = 3  # runs\nrate: float = 0.1  # step\nname: str = "a"  # who\n'
    return write_notebook(tmp_path / "05_n.ipynb", parameters + "fast: bool = False  # or slow\nloose = 1", "")


def test_parameters_take_the_type_the_notebook_declares(notebook):
    def given(*texts):
        return check_against_notebook(notebook, parse_assignments(texts))

    assert given("rate=1e-3", "seeds=4", "fast=true", "name=b") == {"rate": 1e-3, "seeds": 4, "fast": True, "name": "b"}
    assert type(given("rate=1")["rate"]) is float and given("name= ") == {"name": ""}
    for text, message in [
        ("speed=3", "05_n.ipynb has no parameter 'speed'; it has: seeds, rate, name, fast"),
        ("seeds=three", "seeds must be of type int, not 'three'"),
        ("seeds=3.5", "seeds must be of type int, not 3.5"),
        ("seeds=true", "seeds must be of type int, not True"),
        ("fast=1", "fast must be of type bool, not 1"),
        ("rate=quick", "rate must be of type float, not 'quick'"),
        ("loose=2", "'loose' has no type among int, float, str, bool"),
        ("seeds", "not of the form name=value"),
    ]:
        with pytest.raises(BadParameter, match=message):
            given(text)
    notebook.write_text("{")
    with pytest.raises(BadParameter, match=r"05_n\.ipynb cannot be read as a notebook"):
        given("seeds=3")
