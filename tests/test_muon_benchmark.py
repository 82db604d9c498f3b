"""Clipping with Muon: the recipe of docs/clipping.md, and the benchmark behind it."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def benchmark():
    return runpy.run_path(str(ROOT / "benchmarks" / "muon.py"))


@pytest.fixture(scope="module")
def updates_after(benchmark):
    """Returns the last of five updates for equal gradients after one of any size."""
    rng = np.random.default_rng(0)

    def gradients(shape):
        first, usual = rng.normal(size=(2, *shape))
        return jnp.float32([first, *[usual] * 5])

    several = {
        "layers": {"hidden": {"kernel": gradients((4, 4))}},
        "output": {"kernel": gradients((4, 3))},
    }
    params = jax.tree.map(lambda g: g[0], several)

    @jax.jit
    def after(placement, size):
        tx = benchmark["make_optimizer"](placement, 0.1, 0.01, steps=10**6)

        def step(state, grads):
            updates, state = tx.update(grads, state, params)
            return state, updates

        given = jax.tree.map(lambda g: g.at[0].multiply(size), several)
        _, updates = jax.lax.scan(step, tx.init(params), given)
        return jax.tree.map(lambda u: u[-1], updates)

    return after


def cosine(one, two):
    return float(jnp.vdot(one, two) / jnp.linalg.norm(one) / jnp.linalg.norm(two))


@pytest.mark.parametrize(
    ("placement", "muon", "adamw"),
    [
        ("none", False, False),
        ("all", True, True),
        ("AdamW", False, True),
        ("Muon", True, False),
    ],
)
def test_clipping_removes_a_spike_from_the_momentum(
    benchmark, updates_after, standard_promotion, placement, muon, adamw
):
    number = benchmark["PLACEMENTS"].index(placement)
    usual, spiked = (updates_after(number, size) for size in (1.0, 1000.0))
    groups = {"layers": muon, "output": adamw}
    for (path, one), two in zip(
        jax.tree.leaves_with_path(usual), jax.tree.leaves(spiked), strict=True
    ):
        same = cosine(one, two)
        assert same > 0.99 if groups[path[0].key] else same < 0.9


@pytest.mark.slow
def test_the_benchmark_prints_a_table(benchmark, standard_promotion, capsys):
    found = benchmark["main"](["--quick", "--seeds", "2"])
    assert list(found) == ["clean", "spiked"]
    for answer in found.values():
        assert [t.name for t in answer.treatments] == benchmark["PLACEMENTS"]
        assert all(np.isfinite(t.mean) for t in answer.treatments)
        assert len(answer.differences) == 3
    losses = {t.name: t.mean for t in found["spiked"].treatments}
    assert losses["all"] < losses["none"]
    assert "| spiked | all |" in capsys.readouterr().out
