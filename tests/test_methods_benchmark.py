"""The comparison of the methods runs, quickly, and clipping helps there."""

import pathlib
import runpy

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "methods.py"


@pytest.mark.slow
def test_quick_comparison_prints_a_table_and_draws(
    tmp_path, standard_promotion, capsys
):
    main = runpy.run_path(str(SCRIPT))["main"]
    reached = main(["--quick", "--out", str(tmp_path)])
    _, _, clipped = reached["cosh"]
    assert clipped > reached["cosh"][0]
    assert (tmp_path / "methods.png").stat().st_size > 2000
    assert "| `clip_by_global_norm` |" in capsys.readouterr().out
