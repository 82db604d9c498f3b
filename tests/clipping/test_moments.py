"""Methods with memory: 200 rough steps against NumPy, and the vectors of their code."""

import inspect
import json
import pathlib

import jax
import jax.numpy as jnp
import moment_models
import numpy as np
import optax
import pytest

import stabjax

VECTORS = json.loads(
    (pathlib.Path(__file__).parents[1] / "vectors" / "clipping.json").read_text()
)
# Over 200 steps of rough gradients every number of these matters.
CASES = {
    "clip_by_second_moment": dict(threshold=40.0, decay=0.97, clip_delay=12),
    "scale_by_spam": dict(
        b1=0.9,
        b2=0.97,
        eps=1e-3,
        threshold=30.0,
        reset_every=40,
        warmup_steps=12,
        clip_delay=8,
    ),
    "clip_by_tracked_max": dict(decay=0.95),
    "normalize_by_tracked_norm": dict(b1=0.7, b2=0.9, eps=1e-2),
    "scale_by_stable_spam": dict(
        b1=0.9,
        b2=0.98,
        eps=1e-3,
        gamma1=0.7,
        gamma2=0.9,
        gamma3=0.95,
        reset_every=30,
    ),
    "scale_by_stable_adam": dict(b1=0.9, b2=0.95, eps=1e-3, threshold=0.8),
    "adopt_clip": dict(exponent=0.3),
}


def updates_of(tx, grads, params=None):
    """The updates of all steps, as one scan."""
    params = jnp.zeros(grads.shape[-1]) if params is None else params

    def step(state, g):
        updates, state = tx.update(g, state, params)
        return state, updates

    return jax.lax.scan(step, tx.init(params), grads)[1]


@pytest.mark.parametrize("name", CASES)
def test_rough_steps_are_the_formulas(name):
    grads, numbers = moment_models.rough_gradients(), CASES[name]
    has_reference = "reference" in inspect.signature(getattr(stabjax, name)).parameters
    modes = [dict(reference=mode) for mode in (False, True)] if has_reference else [{}]
    with jax.enable_x64(True):
        for mode in modes:
            make, model = getattr(stabjax, name), getattr(moment_models, name)
            program = jax.jit(lambda n, g: updates_of(make(**n, **mode), g))  # noqa: B023
            got = program(numbers, jnp.asarray(grads))
            expected = model(grads, **numbers, **mode)
            assert got.dtype == jnp.float64
            assert 0.9 < np.isfinite(expected).mean() < 1
            # The bound of ADOPT is a schedule, of float32.
            rtol = 1e-6 if name == "adopt_clip" else 1e-9
            np.testing.assert_allclose(got, expected, rtol, 1e-12)


def test_rough_updates_against_parameters():
    grads = moment_models.rough_gradients()
    params = np.random.default_rng(1).normal(size=grads.shape[1])
    params[2] = 0
    numbers = dict(relative=0.5, absolute=0.3)
    tx = stabjax.clip_by_relative_update(**numbers)
    got = jax.jit(lambda g, w: updates_of(tx, g, w))(
        jnp.asarray(grads, "float32"), jnp.asarray(params, "float32")
    )
    expected = moment_models.clip_by_relative_update(grads, params, **numbers)
    np.testing.assert_allclose(got, expected, 1e-6)
    assert np.any(got == grads.astype("float32")) and np.any(abs(got) < abs(grads))


def test_rough_examples_are_the_formulas():
    grads = np.stack([moment_models.rough_gradients(seed=s) for s in range(5)], 1)
    numbers = dict(init_norm=0.1, target_quantile=0.6, learning_rate=0.3)
    with jax.enable_x64(True):
        tx = stabjax.adaptive_quantile_clip(**numbers)
        params = jnp.zeros(grads.shape[-1])
        got = jax.jit(lambda g: updates_of(tx, g, params))(jnp.asarray(grads))
    expected = moment_models.adaptive_quantile_clip(grads, **numbers)
    np.testing.assert_allclose(got, expected, 1e-9, 1e-12)


def test_spam_gives_the_numbers_of_its_code():
    spam = stabjax.scale_by_spam(
        0.5,
        0.75,
        0.0,
        threshold=4.0,
        reset_every=4,
        warmup_steps=2,
        clip_delay=2,
        reference=True,
    )
    state = spam.init(jnp.zeros(1))
    biased_mean = biased_square = 0.0
    for g, row in zip(VECTORS["spam"]["g"], VECTORS["spam"]["rows"], strict=True):
        clipped, update, mean, square = row
        updates, state = jax.jit(spam.update)(jnp.array([float(g)]), state)
        np.testing.assert_allclose(-updates[0], update, rtol=1e-6)
        # The state's averages have no bias; those of the vectors start at 0.
        age = int(state.spam_step) % 4 + (int(state.spam_step) >= 4)
        biased_mean = float(state.spam_mean[0]) * (1 - 0.5**age)
        biased_square = float(state.spam_root[0]) ** 2 * (1 - 0.75**age)
        np.testing.assert_allclose([biased_mean, biased_square], [mean, square], 1e-6)
        assert state.metrics["scale_by_spam:clipped"] or clipped == g


def test_stable_spam_gives_the_numbers_of_its_code():
    grads = np.array([[3, 4], [3, 4], [30, 40], [3, 4], [0, 0]], "float32")
    for reference in (False, True):
        tx = stabjax.scale_by_stable_spam(
            gamma3=0.9, reset_every=0, reference=reference
        )
        pieces = optax.chain(
            stabjax.clip_by_tracked_max(0.9), stabjax.normalize_by_tracked_norm()
        )
        update, apart = jax.jit(tx.update), jax.jit(pieces.update)
        state, of_pieces = tx.init(jnp.zeros(2)), pieces.init(jnp.zeros(2))
        for g, row in zip(grads, VECTORS["stable_spam"], strict=True):
            updates, state = update(jnp.asarray(g), state)
            np.testing.assert_allclose(-updates, row["u"], rtol=1e-6)
            np.testing.assert_allclose(state.stable_spam_max, row["thr"], rtol=1e-6)
            updates, of_pieces = apart(jnp.asarray(g), of_pieces)
            norm = row["c"] if row["n"] else 0
            np.testing.assert_allclose(np.linalg.norm(updates), norm, rtol=1e-6)
            largest, norms = of_pieces
            np.testing.assert_allclose(largest.tracked_max, row["thr"], rtol=1e-6)
            usual = norms.tracked_norm_mean / (norms.tracked_norm_root + 1e-8)
            np.testing.assert_allclose(usual, row["c"], rtol=1e-6)


def test_the_largest_entries_may_change_their_order():
    """A history of 0, one gradient of 10 at half the weight: a bound of 5."""
    clipping = stabjax.clip_by_tracked_max(0.0)
    state = clipping.init(jnp.zeros(3))._replace(tracked_max_step=jnp.int32(10**6))
    half = stabjax.clip_by_tracked_max(0.5)
    updates, _ = half.update(jnp.array([10.0, -6.0, 4.0]), state)
    np.testing.assert_allclose(updates, [5, -3, 4], rtol=1e-6)


def test_stable_adam_gives_the_numbers_of_its_code():
    tx = stabjax.scale_by_stable_adam(weight_decay=0.1)
    params = jnp.ones(2)
    state = tx.init(params)
    grads = [[1.0, 1.0], [1.0, -1.0], [10.0, 1.0], [1.0, 1.0]]
    for g, row in zip(grads, VECTORS["stable_adamw"], strict=True):
        updates, state = jax.jit(tx.update)(jnp.array(g), state, params)
        params = params - 0.1 * updates
        np.testing.assert_allclose(params, row["theta"], rtol=1e-6)
        np.testing.assert_allclose(state.stable_adam_mean, row["m"], 1e-6)
        np.testing.assert_allclose(state.stable_adam_root**2, row["u"], 1e-6)
        clipped = state.metrics["scale_by_stable_adam:clipped"]
        # Of gradients that are all alike the mean square is 1 up to rounding.
        assert bool(clipped) == (row["rms"] > 1) or abs(row["rms"] - 1) < 1e-6
    with pytest.raises(ValueError, match="params must be passed to use weight_decay"):
        tx.update(params, state)


def test_clippy_gives_the_numbers_of_both_adagrads():
    """Of the paper, and of TensorFlow Recommenders, which adds the square later."""
    grads = jnp.array([[1.0, 0.1], [0.0, 5.0], [0.01, 0.01]])
    for name, numbers in [
        ("clippy_paper", dict(relative=0.5, absolute=1e-2)),
        ("clippy_tfrs", dict(relative=0.1, absolute=1e-7)),
    ]:
        clippy = stabjax.clip_by_relative_update(**numbers)
        params, sums = jnp.array([1.0, -0.1]), jnp.full(2, 0.1)
        for g, row in zip(grads, VECTORS[name], strict=True):
            before, sums = sums, sums + g * g
            root = jnp.sqrt(sums if name == "clippy_paper" else before + 1e-7)
            step = -0.1 * g / root
            updates, _ = clippy.update(step, optax.EmptyState(), params)
            moved = step != 0
            ratio = (updates[moved] / step[moved])[0]
            np.testing.assert_allclose(ratio, row["scale"], rtol=1e-6)
            params = params + updates
            np.testing.assert_allclose(params, row["w"], rtol=1e-6)


@pytest.mark.parametrize(
    "make", [stabjax.normalize_by_tracked_norm, stabjax.scale_by_stable_spam]
)
@pytest.mark.parametrize("first", [2.3e38, 2.5e38, 3e38, 3.4e38])
def test_a_norm_beyond_float32_spoils_nothing_later(make, first):
    tx = make()
    state = tx.init(jnp.zeros(2))
    for size in (first, 1.0, 1.0, 1.0):
        updates, state = tx.update(jnp.full(2, size, jnp.float32), state)
        assert np.isfinite(updates).all(), size
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
