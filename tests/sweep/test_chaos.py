"""A few rounds of chaos; `python tests/sweep/chaos.py` runs 200."""

import chaos
import jax
import pytest


@pytest.mark.slow
def test_chaos(tmp_path):
    with jax.numpy_dtype_promotion("standard"):
        seen = chaos.chaos(tmp_path, rounds=4, seed=1, log=lambda line: None)
    assert seen["trained"] >= 5  # chunks; the number depends on the moments of kills
    assert seen["finished"]
