"""Bounds of the finished update, resets, and what their arguments may be."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stabjax


def test_block_rms_is_the_update_clipping_of_adafactor(standard_promotion):
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    rng = np.random.default_rng(0)
    ours = optax.chain(
        optax.scale_by_factored_rms(), stabjax.clip_by_block_rms(1.0), optax.scale(-0.1)
    )
    theirs = optax.adafactor(
        0.1, multiply_by_parameter_scale=False, clipping_threshold=1.0
    )
    states = [tx.init(params) for tx in (ours, theirs)]
    updates = [jax.jit(tx.update) for tx in (ours, theirs)]
    for size in (1.0, 1.0, 50.0):
        grads = jax.tree.map(
            lambda p: jnp.asarray(size * rng.normal(size=p.shape), "float32"),  # noqa: B023
            params,
        )
        got = [u(grads, s, params) for u, s in zip(updates, states, strict=True)]
        states = [state for _, state in got]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, 1e-6), got[0][0], got[1][0]
        )
    # The spike was clipped to the learning rate.
    rms = np.sqrt(np.mean(np.square(got[0][0]["w"])))
    np.testing.assert_allclose(rms, 0.1, rtol=1e-6)


def test_relative_updates_of_the_vectors_and_far_out():
    for delta, params, numbers, factor in (
        ([2.0], [4.0], (0.1, 0.02), 0.21),
        ([1.0, 1.0], [1.0, 0.1], (0.1, 0.01), 0.02),
        ([0.0, 1.0], [0.0, 1.0], (0.5, 0.0), 0.5),  # what stays may be zero
        ([1.0, 1.0], [0.0, 1.0], (0.5, 0.0), 0.0),
        ([3e38, 1e38], [1.0, 1.0], (0.01, 0.0), 0.01 / 3e38),
    ):
        tx = stabjax.clip_by_relative_update(*numbers)
        updates, _ = tx.update(jnp.array(delta), tx.init(0), jnp.array(params))
        expected = np.array(delta) * factor
        np.testing.assert_allclose(updates, expected, rtol=1e-6, atol=1e-37)
    with pytest.raises(
        ValueError, match="params must be passed to clip_by_relative_update"
    ):
        tx.update(updates, optax.EmptyState())


def test_nan_shows_in_a_batch_of_relative_updates():
    transformation = stabjax.clip_by_relative_update()
    params = jnp.ones(64)

    @jax.jit
    @jax.vmap
    def update(grads):
        return transformation.update(grads, transformation.init(params), params)[0]

    assert np.isnan(update(jnp.eye(64) * jnp.nan)).all()


def test_adopt_bounds_what_optax_does():
    """Its count starts at 0 with an update that is none; ours at 1 with the next."""
    tx = stabjax.adopt_clip()
    state = tx.init(jnp.zeros(3))
    theirs = optax.contrib.scale_by_adopt(0.0, 0.5, eps=0.0)
    params = jnp.zeros(3)
    their_state = theirs.init(params)
    rng, nu = np.random.default_rng(1), None
    for t in range(6):
        g = jnp.asarray(rng.normal(size=3) * (10 if t > 3 else 1), "float32")
        with jax.numpy_dtype_promotion("standard"):
            expected, their_state = theirs.update(g, their_state, params)
        if t:
            updates, state = tx.update(g / jnp.sqrt(nu), state)
            np.testing.assert_allclose(updates, expected, rtol=1e-5)
        nu = g * g if nu is None else 0.5 * nu + 0.5 * g * g


def test_resets_forget_and_warm_up():
    """By hand: a running sum that starts again, times the factor of SPAM."""
    tx = stabjax.reset_moments(optax.trace(1.0), every=4, warmup_steps=2)
    params, ones = jnp.zeros(()), jnp.ones(())
    state, update, seen = tx.init(params), jax.jit(tx.update), []
    for _ in range(8):
        updates, state = update(ones, state, params)
        seen.append(float(updates))
    rising = [1 - 0.99 * (1 + np.cos(np.pi * k / 3)) / 2 for k in range(2)]
    rest = [1 * rising[0], 2 * rising[1], 3, 4]
    np.testing.assert_allclose(seen, [1, 2, 3, *rest, rest[0]], rtol=1e-6)
    assert stabjax.metrics(state) == {"reset_moments/age": 1}
    never = stabjax.reset_moments(optax.trace(1.0), every=0)
    state = never.init(params)
    for _ in range(3):
        updates, state = never.update(ones, state, params)
    assert updates == 3
    with pytest.raises(ValueError, match="params must be passed to reset_moments"):
        never.update(ones, state)
    with pytest.raises(TypeError, match="inner must be an optax.GradientTransf"):
        stabjax.reset_moments("adam")


def test_resets_pass_extra_arguments_on():
    def update_fn(updates, state, params=None, *, value, **extra_args):
        return updates * value, state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)
    tx = stabjax.reset_moments(inner)
    updates, _ = tx.update(jnp.ones(()), tx.init(0), jnp.ones(()), value=3.0)
    assert updates == 3


def test_qk_clip_brings_logits_to_their_bound():
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(7, 6)), "float32")
    kernels = {
        name: jnp.asarray(rng.normal(size=(6, 3, 4)), "float32") for name in "qk"
    }

    def largest(kernels):
        q, k = (jnp.einsum("te,ehd->htd", x, kernels[name]) for name in "qk")
        return jnp.max(jnp.einsum("hqd,hkd->hqk", q, k), axis=(1, 2))

    before = largest(kernels)
    tau = jnp.sort(before)[1]
    clipped = jax.jit(stabjax.qk_clip)(kernels, before, tau)
    np.testing.assert_allclose(largest(clipped), jnp.minimum(before, tau), rtol=1e-5)
    untouched = np.flatnonzero(before <= tau)
    for name in "qk":
        np.testing.assert_array_equal(
            clipped[name][:, untouched], kernels[name][:, untouched]
        )


def test_qk_clip_takes_prefixes_axes_powers_and_keeps_dtypes():
    params = {"a": {"q": jnp.ones((2, 3), "bfloat16")}, "b": jnp.ones((3, 2, 2))}
    logits = {"a": jnp.float32(16.0), "b": jnp.array([1.0, np.nan, 4.0])}
    got = stabjax.qk_clip(params, logits, 4.0, axis=0)
    assert got["a"]["q"].dtype == jnp.bfloat16
    assert (got["a"]["q"] == 0.5).all()
    assert np.isnan(got["b"][1]).all()
    assert (got["b"][0] == 1).all() and (got["b"][2] == 1).all()
    whole = stabjax.qk_clip(params["a"], jnp.float32(16.0), 4.0, power=1.0)
    assert (whole["q"] == 0.25).all()
    below = stabjax.qk_clip(params["a"], jnp.float32(-50.0), 4.0)
    assert (below["q"] == 1).all()
    with pytest.raises(ValueError, match="max_logit must be >= 0"):
        stabjax.qk_clip(params, logits, -1.0)


@pytest.mark.parametrize(
    "make, bad, message",
    [
        (stabjax.adopt_clip, {"exponent": -1}, "exponent must be >= 0"),
        (stabjax.clip_by_relative_update, {"absolute": -1}, "absolute must be >= 0"),
    ],
)
def test_bad_numbers_are_named(make, bad, message):
    with pytest.raises(ValueError, match=message):
        make(**bad)


def test_moments_of_complex_entries_are_refused():
    for make in (
        stabjax.scale_by_spam,
        stabjax.scale_by_stable_spam,
        stabjax.scale_by_stable_adam,
        stabjax.clip_by_second_moment,
    ):
        with pytest.raises(TypeError, match="must be real, got an array of complex"):
            make().init(jnp.ones(2, "complex64"))
    # Norms and largest magnitudes of theirs are as good as any.
    g = jnp.array([3 + 4j, 0])
    for tx in (stabjax.normalize_by_tracked_norm(), stabjax.clip_by_tracked_max()):
        updates, _ = tx.update(g, tx.init(g))
        size = 1 if "Norm" in type(tx.init(g)).__name__ else 5
        np.testing.assert_allclose(updates, g / 5 * size, rtol=1e-6)


def test_an_entry_that_was_zero_learns():
    """SPAM's code holds it at zero for ever; reference=True does so, too."""
    quiet, loud = jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0])
    for reference in (False, True):
        tx = stabjax.scale_by_spam(clip_delay=2, reference=reference)
        state, update = tx.init(quiet), jax.jit(tx.update)
        for g in (quiet, quiet, quiet, loud):
            updates, state = update(g, state)
        assert bool(updates[1] == 0) == reference


@pytest.mark.parametrize("name", ["clip", "adopt_clip"])
def test_element_clips_report_for_all_of_a_mapped_axis(name):
    given = {"clip": (lambda count: 1.0,), "adopt_clip": ()}[name]
    tx = getattr(stabjax, name)(*given, axis_name="d")
    state = tx.init(jnp.zeros(1))

    def metrics(g):
        return stabjax.metrics(tx.update(g, state)[1])

    found = jax.vmap(metrics, axis_name="d")(jnp.array([[0.5], [3.0]]))
    assert found[f"{name}/clipped"].tolist() == [True, True]
    assert found[f"{name}/max_delta"].tolist() == [1, 1]
