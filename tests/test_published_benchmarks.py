"""The scripts that compare with published figures: each reproduces a part of them."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stabjax

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks" / "published"


def script(name):
    return runpy.run_path(str(FOLDER / f"{name}.py"))


def test_deepobs_is_the_published_problem():
    deepobs = script("deepobs")
    problem = deepobs["quadratic_deep"](1)(0)
    # The first test loss of every run of DeepOBS, 2019.
    loss = problem.evaluate(jnp.ones(100), None)["test_loss"]
    np.testing.assert_allclose(loss, 353.44676426, rtol=2e-6)


@pytest.mark.slow
def test_deepobs_has_the_published_losses(standard_promotion):
    deepobs = script("deepobs")
    rates = deepobs["RATES"][[12, 15, 17, 18]]
    runs = deepobs["trained"](rates, seeds=4)
    for optimizer, rate, mean, spread in deepobs["PUBLISHED"]:
        found = deepobs["losses_at"](runs, optimizer, rate)
        if mean is None:
            assert np.isfinite(found).all()
        elif np.isinf(mean):
            assert np.isinf(found).all()
        else:
            assert abs(found.mean() - mean) < 0.06 + spread


def test_relaxed_smoothness_needs_fewer_steps_with_clipping():
    relaxed = script("relaxed_smoothness")
    found = relaxed["steps_to_target"]("quartic", 30.0, [0.1, 0.5, 1.0], 1.0, 720)
    np.testing.assert_allclose(found, relaxed["REFERENCE"][0][3], atol=1)
    # With L_0 = L_1 = 1, the bound is 20 D (1 / eps^2 + 1).
    expected = 20 * (np.cosh(10) - 1) * (1e4 + 1)
    np.testing.assert_allclose(relaxed["proven"]("cosh", 10), expected)


@pytest.mark.slow
def test_the_schedule_bound_is_that_of_the_authors():
    bound = script("schedule_bound")
    for row, found in zip(bound["THEIRS"], bound["bounds"](), strict=True):
        np.testing.assert_allclose(found, row[3:], rtol=1e-6)
    for make, scale, exponent in bound["POWER_LAWS"].values():
        found = bound["power_law"](make)
        np.testing.assert_allclose(found, [scale, exponent], atol=2e-4)


@pytest.mark.slow
def test_the_multi_power_law_is_fitted_and_optimized(tmp_path, capsys):
    script_of = script("multi_power_law")
    law = script_of["THEIRS"]["25M"]
    for name in script_of["FITTED"] + script_of["JUDGED"]:
        last = 72_000 if name.endswith("72000") else 15_000
        steps = np.linspace(3000, last, 8).astype(int)
        schedule = script_of["schedule_of"](name)
        rows = np.stack([steps, 0.0 * steps, law.predict(schedule, steps)], axis=1)
        header = "step,lr,loss"
        path = tmp_path / f"{name}.csv"
        np.savetxt(path, rows, delimiter=",", header=header, comments="")
    cosine = stabjax.cosine_decay_schedule(3e-4, 21_840)
    after = np.asarray(jax.vmap(cosine)(jnp.arange(21_840)))
    np.save(tmp_path / "optimized_schedule.npy", after)
    rows, theirs, ours = script_of["report"](tmp_path, "25M")
    assert rows["their parameters"][1] < 1e-5  # mean absolute error
    assert rows["stabjax's fit"][1] < 0.003
    assert ours < theirs
    assert "stabjax's fit" in capsys.readouterr().out


@pytest.mark.slow
def test_nanogpt_learns_and_records(tmp_path, standard_promotion, capsys):
    nanogpt = script("nanogpt")
    nanogpt["main"].__globals__["LAYERS"] = 1  # compiles faster
    path = tmp_path / "text.txt"
    path.write_text(stabjax.problems.markov_text()[:8000])
    runs = nanogpt["main"](["--text", str(path), "--steps", "16", "--seeds", "2"])
    # Initial logits are small, so the first loss is the entropy of a uniform guess.
    characters = len(set(path.read_text()))
    np.testing.assert_allclose(runs.loss[..., 0], np.log(characters), atol=0.1)
    assert (runs.validation_loss < runs.loss[..., 0] - 0.3).all()
    assert (runs.clip_update_norm <= 1.0001).all()
    assert "nanoGPT, peak 0.001  1.88" in capsys.readouterr().out


def test_nanogpt_has_the_published_size():
    nanogpt = script("nanogpt")
    text = "".join(map(chr, range(200, 265))) * 100
    problem = nanogpt["shakespeare"](text)
    params = jax.eval_shape(problem.init, jax.random.key(0))
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    # nanoGPT prints 0.80M for 65 characters, without the embeddings of positions.
    assert sum(sizes) - 64 * 128 == 795_904
