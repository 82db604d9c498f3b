"""The examples, run as a user would: each trains and says what it reached."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", ["flax_nnx_digits", "flax_linen_digits"])
def test_example_learns_the_digits_and_logs_the_clipping(name, capsys):
    accuracy = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]()
    assert accuracy > 0.95
    log = capsys.readouterr().out.splitlines()
    assert log[-1] == f"test accuracy {accuracy:.3f}"
    assert len(log) == 5
    for line in log[:-1]:
        words = line.split()
        values = dict(zip(words[::2], map(float, words[1::2]), strict=True))
        assert 0 < values["clip/update_norm"] <= values["clip/grad_norm"]
        assert values["clip/update_norm"] <= 1.001
        assert 0 < values["clip/clip_fraction"] < 1
