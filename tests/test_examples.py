"""Every example runs, as a user would run it, and trains."""

import pathlib
import runpy

import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("name", ["flax_nnx_digits", "flax_linen_digits"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Flax's own
def test_digits_examples_reach_95_percent_and_log_metrics(
    name, standard_promotion, capsys
):
    main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    accuracy = main()
    printed = capsys.readouterr().out

    assert accuracy > 0.95
    assert "test accuracy" in printed
    assert "clip/grad_norm" in printed
