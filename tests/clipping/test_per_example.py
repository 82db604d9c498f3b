"""Per-example clipping against its formula and against Optax."""

import json
import pathlib

import jax
import jax.numpy as jnp
import models
import numpy as np
import optax
import pytest

import stabjax

VECTORS = json.loads(
    (pathlib.Path(__file__).parents[1] / "vectors" / "clipping.json").read_text()
)
ROWS = [jnp.array([[0.0, 0, 0], [0, 3, 4], [4, 0, 3], [3, 4, 0]])]


def assert_trees_close(actual, expected):
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, 1e-6, 1e-7), actual, expected
    )


def batch(dtype="float32", magnitude=1.0, seed=0):
    """Five examples; the last is zero."""
    rng = np.random.default_rng(seed)
    tree = {"w": rng.normal(size=(5, 3, 2)), "b": rng.normal(size=(5, 2))}
    tree["s"] = rng.normal(size=5)
    last = {"w": np.zeros((3, 2)), "b": np.zeros(2), "s": 0}
    for name, leaf in tree.items():
        leaf[-1] = last[name]
    return jax.tree.map(lambda x: jnp.asarray(x * magnitude / 4, dtype), tree)


@pytest.mark.parametrize("dtype", ("float16", "bfloat16", "float32"))
def test_sums_and_counts_are_the_formula(dtype):
    clipped = jax.jit(stabjax.per_example_global_norm_clip)
    magnitudes = (1, 6e4) if dtype == "float16" else (1, 1e20, 1e37, 1e-20)
    for seed, magnitude in enumerate(magnitudes):
        grads = batch(dtype, magnitude, seed)
        for limit in (0.0, 0.4 * magnitude, 1.0, np.inf):
            total, count = clipped(grads, limit)
            expected, expected_count = models.per_example(grads, limit)
            # Each term is rounded once, and the terms may cancel.
            for name, leaf in total.items():
                assert leaf.dtype == dtype and leaf.shape == grads[name].shape[1:]
                size = min(limit, np.sum(abs(models.exact(grads["w"]))))
                bound = models.TOLERANCE[dtype] * size
                np.testing.assert_allclose(models.exact(leaf), expected[name], 0, bound)
            assert count == expected_count and count.dtype == jnp.int32


def test_multipliers_of_known_norms():
    norms = jnp.array([[0.5], [0.9], [3.0], [4.0]])
    for limit, rows in ((1.0, [0.5, 0.9, 1, 1]), (1.051271096, [0.5, 0.9, 1, 1])):
        expected = sum(min(row, limit) for row in (0.5, 0.9, 3, 4))
        total, count = stabjax.per_example_global_norm_clip(norms, limit)
        np.testing.assert_allclose(total, [expected], rtol=1e-6)
        assert count == sum(row >= 1 for row in rows)


@pytest.mark.parametrize("limit", (0.0, 1.25, 5.0, 100.0, np.inf))
def test_what_optax_counts(limit):
    """A zero example is never clipped, nor one that is exactly at the threshold."""
    for ours, theirs in (
        (stabjax.per_example_global_norm_clip, optax.per_example_global_norm_clip),
        (stabjax.per_example_layer_norm_clip, optax.per_example_layer_norm_clip),
    ):
        total, count = ours(ROWS, limit)
        their_total, their_count = theirs(ROWS, limit)
        np.testing.assert_allclose(total[0], their_total[0], rtol=1e-6)
        assert jax.tree.map(int, count) == jax.tree.map(int, their_count)


@pytest.mark.parametrize("uniform", (True, False))
def test_layers_have_shares_of_the_bound(uniform):
    grads = batch()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = optax.per_example_layer_norm_clip(grads, 0.8, uniform=uniform)
    ours = jax.jit(
        lambda g, c: stabjax.per_example_layer_norm_clip(g, c, uniform=uniform)
    )(grads, 0.8)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    sizes = {"w": 6, "b": 2, "s": 1}
    for name, size in sizes.items():
        share = (1 / 3 if uniform else size / 9) ** 0.5
        total, count = models.per_example(grads[name], 0.8 * share)
        np.testing.assert_allclose(ours[0][name], total, rtol=1e-5, atol=1e-6)
        assert ours[1][name] == count


def test_one_bad_example_is_not_hidden():
    for bad in (np.nan, np.inf):
        grads = [jnp.array([[1.0, 2.0], [bad, 0.0]]), jnp.ones((2, 1))]
        total, count = stabjax.per_example_global_norm_clip(grads, 1.0)
        assert all(np.isnan(leaf).all() for leaf in total) and count == 1


def test_odd_batches():
    total, count = stabjax.per_example_global_norm_clip([jnp.zeros((0, 3))], 1.0)
    assert total[0].tolist() == [0, 0, 0] and count == 0
    # Integers are summed as floats, and an empty layer has no share.
    total, _ = stabjax.per_example_global_norm_clip(jnp.array([[3, 4], [0, 1]]), 1.0)
    np.testing.assert_allclose(total, [0.6, 1.8], rtol=1e-6)
    layers = [jnp.ones((2, 0)), jnp.array([[3.0], [4.0]])]
    total, _ = stabjax.per_example_layer_norm_clip(layers, 1.0, uniform=False)
    assert total[0].shape == (0,) and total[1].tolist() == [2]
    complex_rows = jnp.array([[3 + 4j], [0.5j]])
    total, _ = stabjax.per_example_global_norm_clip(complex_rows, 1.0)
    np.testing.assert_allclose(total, [0.6 + 1.3j], rtol=1e-6)


def test_many_bfloat16_examples_are_summed_in_float32():
    total, _ = stabjax.per_example_global_norm_clip(jnp.ones((4096,), "bfloat16"), 1.0)
    assert total.dtype == jnp.bfloat16 and total == 4096


def test_thresholds_under_vmap_and_grad():
    grads = batch()

    def total(limit):
        totals, _ = stabjax.per_example_global_norm_clip(grads, limit)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(totals))

    limits = jnp.array([0.0, 0.1, 0.5, 10.0, np.inf])
    one_by_one = jnp.stack([jax.jit(total)(limit) for limit in limits])
    np.testing.assert_allclose(jax.vmap(total)(limits), one_by_one, rtol=1e-6)
    slopes = jax.jit(jax.vmap(jax.grad(total)))(limits)
    assert np.isfinite(slopes).all() and slopes[-1] == slopes[-2] == 0


@pytest.mark.parametrize(
    "clip", (stabjax.per_example_global_norm_clip, stabjax.per_example_layer_norm_clip)
)
def test_bad_input_is_named(clip):
    for trees in (
        [jnp.ones((2, 3)), jnp.ones((3, 3))],
        [jnp.ones(2), jnp.ones(())],
        [],
    ):
        with pytest.raises(ValueError, match=rf"{clip.__name__}: all leaves of grads"):
            clip(trees, 1.0)
    with pytest.raises(ValueError, match=r"l2_norm_clip must be >= 0, got -1"):
        clip(ROWS, -1.0)
    with pytest.raises(TypeError, match=r"l2_norm_clip must be a number"):
        clip(ROWS, "1")
    got, _ = clip(ROWS, jnp.float32(1))
    bad, _ = jax.jit(clip)(ROWS, jnp.float32(-1))
    assert np.isfinite(got[0]).all() and np.isnan(bad[0]).all()


def test_a_mean_without_noise_is_optax():
    grads = batch()
    ours = stabjax.differentially_private_aggregate(0.4, 0.0, jax.random.key(3))
    theirs = optax.contrib.differentially_private_aggregate(0.4, 0.0, 3)
    got, state = jax.jit(ours.update)(grads, ours.init(grads))
    expected, _ = theirs.update(grads, theirs.init(grads))
    assert_trees_close(got, expected)
    total, count = stabjax.per_example_global_norm_clip(grads, 0.4)
    assert_trees_close(got, jax.tree.map(lambda x: x / 5, total))
    share = stabjax.metrics(state)["differentially_private_aggregate/clip_fraction"]
    np.testing.assert_allclose(share, count / 5)


def test_noise_is_of_the_key_and_of_the_bound():
    """Its deviation is z C / B; it is new in every update, and again with the key."""
    grads = {"w": jnp.zeros((4, 100, 100)), "b": jnp.zeros((4, 5), "bfloat16")}
    dp = stabjax.differentially_private_aggregate(2.0, 0.6, key=1)
    update = jax.jit(dp.update)
    first, state = update(grads, dp.init(grads))
    second, _ = update(grads, state)
    again, _ = update(grads, dp.init(grads))
    assert first["b"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(first["w"], again["w"])
    for updates in (first, second):
        np.testing.assert_allclose(jnp.std(updates["w"]), 2.0 * 0.6 / 4, rtol=0.03)
        assert abs(jnp.mean(updates["w"])) < 0.01
    assert abs(np.corrcoef(first["w"].ravel(), second["w"].ravel())[0, 1]) < 0.05
    keys = [1, jax.random.key(1), jax.random.PRNGKey(1)]
    states = [
        stabjax.differentially_private_aggregate(2.0, 0.6, key).init(grads)
        for key in keys
    ]
    for one in states:
        np.testing.assert_array_equal(one.rng_key, states[0].rng_key)


def test_the_threshold_of_the_vectors():
    clipping = stabjax.adaptive_quantile_clip(init_norm=1.0)
    update, state = jax.jit(clipping.update), clipping.init(jnp.zeros(1))
    for row in VECTORS["andrew"]:
        norms = jnp.array(row["norms"])[:, None]
        updates, state = update(norms, state)
        mean = np.mean(np.array(row["norms"]) * row["mult"])
        np.testing.assert_allclose(updates, [mean], rtol=1e-6)
        np.testing.assert_allclose(state.quantile_norm, row["C_next"], rtol=1e-6)
        clipped = state.metrics["adaptive_quantile_clip:clip_fraction"]
        np.testing.assert_allclose(clipped, 1 - row["b"], rtol=1e-6)


def test_the_threshold_follows_in_as_many_updates_as_it_says():
    """ln 100 / (eta q), up and down, and there it stays."""

    def thresholds(norms):
        tx = stabjax.adaptive_quantile_clip(1.0, learning_rate=0.3, target_quantile=0.4)

        def step(state, _):
            _, state = tx.update(norms, state)
            return state, state.quantile_norm

        return jax.lax.scan(step, tx.init(norms[0]), None, 80)[1]

    for factor, rate in ((100, 0.3 * 0.4), (0.01, 0.3 * 0.6)):
        found = jax.jit(thresholds)(factor * jnp.array([[0.5], [1.0], [1.5]]))
        promised = int(np.ceil(np.log(100) / rate))
        ratios = abs(np.log(found / factor))
        assert np.all(ratios[promised:] < np.log(2)) and ratios[promised // 2] > 1


def test_noise_of_count_and_sum_share_the_privacy():
    """By the vector: z = 1 beside a count of deviation 10 leaves 1.00125 to the sum."""
    clipping = stabjax.adaptive_quantile_clip(
        0.5, noise_multiplier=1.0, count_noise=10.0, learning_rate=0.01, key=0
    )
    zeros = jnp.zeros((4, 200, 200))
    updates, state = jax.jit(clipping.update)(zeros, clipping.init(zeros[0]))
    expected = VECTORS["andrew_z"] * 0.5 / 4
    np.testing.assert_allclose(jnp.std(updates), expected, rtol=0.015)

    def log_step(seed):
        tx = stabjax.adaptive_quantile_clip(1.0, count_noise=0.8, key=seed)
        state = tx.init(jnp.zeros(1))
        _, state = tx.update(jnp.zeros((4, 1)), state)
        return jnp.log(state.quantile_norm)

    # All of 4 stay below the bound, and the count has a deviation of 0.8.
    steps = jax.jit(jax.vmap(log_step))(jax.random.split(jax.random.key(5), 4000))
    np.testing.assert_allclose(jnp.mean(steps), -0.2 * (1 - 0.5), atol=0.002)
    np.testing.assert_allclose(jnp.std(steps), 0.2 * 0.8 / 4, rtol=0.04)


def test_privacy_that_cannot_be_is_refused():
    quantile = stabjax.adaptive_quantile_clip
    with pytest.raises(ValueError, match=r"below 2 . count_noise, got 1.0 and 0.5"):
        quantile(noise_multiplier=1.0, count_noise=0.5, key=0)
    with pytest.raises(ValueError, match="key must be a random key if there is noise"):
        quantile(noise_multiplier=1.0, count_noise=2.0)
    with pytest.raises(ValueError, match="key must be a random key if there is noise"):
        jax.jit(lambda sigma: quantile(count_noise=sigma).init(jnp.zeros(1)))(1.0)
    with pytest.raises(ValueError, match=r"target_quantile must be in \[0, 1\]"):
        quantile(target_quantile=1.5)
    with pytest.raises(ValueError, match=r"init_norm must be >= 0"):
        quantile(-1.0)
    with pytest.raises(ValueError, match=r"all leaves of grads must have examples"):
        tx = quantile()
        tx.update(jnp.ones(()), tx.init(jnp.ones(())))

    def traced(z):
        tx = quantile(noise_multiplier=z, count_noise=0.5, key=0)
        return tx.update(jnp.ones((2, 3)), tx.init(jnp.ones(3)))[0]

    updates = jax.jit(jax.vmap(traced))(jnp.array([0.0, 0.5, 1.0, 2.0]))
    assert np.isfinite(updates[:2]).all() and np.isnan(updates[2:]).all()
