"""Guards: against vectors and models in NumPy; what a skipped step leaves alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import stabjax

NAN, INF = np.nan, np.inf
STEPS, RATE, DECAY = 200, 0.5, 0.9
MOMENTUM = optax.sgd(RATE, DECAY)


@functools.partial(jax.jit, static_argnames="optimizer")
def run(optimizer, grads, losses=None):
    """Updates and metrics of every step, in one scan."""
    losses = jnp.zeros(len(jax.tree.leaves(grads)[0])) if losses is None else losses

    def step(state, inputs):
        updates, loss = inputs
        updates, state = optimizer.update(updates, state, value=loss)
        return state, (updates, stabjax.metrics(state))

    first = jax.tree.map(lambda g: g[0], grads)
    state = optimizer.init(jax.tree.map(jnp.zeros_like, first))
    _, found = jax.lax.scan(step, state, (grads, jnp.asarray(losses, jnp.float32)))
    return found


def of(name, metrics):
    """The metrics of a guard under their short names, as NumPy arrays."""
    return {k.removeprefix(f"{name}/"): np.asarray(v) for k, v in metrics.items()}


def odd_gradients(seed):
    """Gradients of two leaves, and losses: with spikes, zeros and non-finite ones."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(STEPS, 3)), rng.normal(size=STEPS)
    scale = np.where(rng.uniform(size=STEPS) < 0.04, 50.0, 1.0)
    scale = np.where(rng.uniform(size=STEPS) < 0.02, 0.0, scale)
    a, b = a * scale[:, None], b * scale
    a[40:44, 1], b[40], a[90, 0], b[91] = NAN, INF, INF, NAN
    loss = 2 + 0.1 * rng.normal(size=STEPS)
    loss[rng.uniform(size=STEPS) < 0.04] += 3
    loss[[60, 120]] = NAN, -INF
    return {"a": a.astype(np.float32), "b": b.astype(np.float32)}, loss


def model(grads, losses, bad, most=INF):
    """Momentum of the steps that pass; `bad` judges (step, norm, loss, past)."""
    trace, streak, leaf, past, was, rows = np.zeros(4), 0, -1, [], False, []
    for step in range(STEPS):
        parts = (
            grads["a"][step].astype(float),
            grads["b"][step : step + 1].astype(float),
        )
        g = np.concatenate(parts)
        norm, loss = np.sqrt(np.sum(g**2)), losses[step]
        nonfinite = [not np.all(np.isfinite(part)) for part in parts]
        if any(nonfinite) and not was:
            leaf = nonfinite.index(True)
        was = any(nonfinite)
        judged = was or bad(step, norm, loss, past)
        if np.isfinite(norm) and np.isfinite(loss):
            past.append((loss, norm))
        streak = streak + 1 if judged else 0
        skipped = judged and streak <= most
        if not skipped:
            trace = DECAY * trace + g
        rows.append((np.zeros(4) if skipped else -RATE * trace, skipped, streak, leaf))
    return [np.array(column) for column in zip(*rows, strict=True)]


def leaps(window, sigma, least):
    """OLMo's rule, from its formula, with this library's repairs."""

    def bad(step, norm, loss, past):
        recent = np.array(past[-window:])
        if not np.isfinite(loss):
            return True
        if len(recent) < least:
            return False
        floor = 1e-6 * np.abs(recent).max(axis=0)
        deviation = np.maximum(recent.std(axis=0, ddof=1), floor)
        limit = recent.mean(axis=0) + sigma * deviation
        return bool(np.any(np.array([loss, norm]) > limit))

    return bad


GUARDS = {
    "skip_if_nonfinite": (
        stabjax.skip_if_nonfinite(MOMENTUM),
        lambda *_: False,
    ),
    "skip_above_norm": (
        stabjax.skip_above_norm(MOMENTUM, stabjax.linear_schedule(3.0, 5.0, STEPS)),
        lambda step, norm, loss, past: norm > 3 + 0.01 * step,
    ),
    "skip_on_spike": (
        stabjax.skip_on_spike(MOMENTUM, window=16, z_threshold=3.0),
        leaps(16, 3.0, 8),
    ),
}


@pytest.mark.parametrize("name", GUARDS)
def test_equals_the_model_over_random_steps(name):
    guard, bad = GUARDS[name]
    grads, losses = odd_gradients(seed=len(name))
    updates, metrics = run(guard, grads, losses)
    expected, skipped, streak, leaf = model(grads, losses, bad)
    found = np.column_stack([updates["a"], updates["b"]])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    seen = of(name, metrics)
    np.testing.assert_array_equal(seen["skipped"], skipped)
    np.testing.assert_array_equal(seen["consecutive"], streak)
    np.testing.assert_array_equal(seen["nonfinite_leaf"], leaf)
    np.testing.assert_array_equal(seen["skip_count"], skipped.cumsum())
    share = skipped.cumsum() / np.arange(1, STEPS + 1)
    np.testing.assert_allclose(seen["skip_fraction"], share, rtol=1e-6)
    assert seen["nonfinite_count"][-1] == 6
    assert skipped.sum() == 6 if name == "skip_if_nonfinite" else skipped.sum() > 9
    assert np.isfinite(found).all()


def test_reasons_are_counted():
    values = np.full(20, 2.0) + 0.01 * (np.arange(20) % 2)
    losses, norms = values.copy(), values.copy()
    losses[[12, 14]], norms[[14, 16, 18]] = [9, NAN], [9, 9, INF]
    guard = stabjax.skip_on_spike(MOMENTUM, window=8, z_threshold=6.0)
    _, metrics = run(guard, jnp.asarray(norms, jnp.float32), losses)
    seen = {name: values[-1] for name, values in of("skip_on_spike", metrics).items()}
    assert (seen["value_count"], seen["grad_norm_count"]) == (2, 2)
    assert (seen["nonfinite_count"], seen["skip_count"]) == (1, 4)


def test_apply_if_finite():
    """Optax's vector: two errors in a row are skipped, the next ones pass."""
    grads = jnp.array([1, NAN, NAN, NAN, NAN, 1, INF])
    guard = stabjax.skip_if_nonfinite(optax.scale(-1.0), max_consecutive=2)
    updates, metrics = run(guard, grads)
    np.testing.assert_array_equal(updates, [-1, 0, 0, NAN, NAN, -1, 0])
    seen = of("skip_if_nonfinite", metrics)
    assert seen["consecutive"].tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert seen["nonfinite_count"].tolist() == [0, 1, 2, 3, 4, 4, 5]
    assert seen["skip_count"].tolist() == [0, 1, 2, 2, 2, 2, 3]


@pytest.mark.parametrize(
    "window, sigma, losses, norms, olmo",
    [
        (4, 3.0, [2, 2.1, 1.9, 2, 5, 2.05, 2, 2.6], [1] * 8, "10110111"),
        (4, 3.0, [2, 2.1, 1.9, 2, 2, 2], [1, 1.1, 0.9, 1, 9, 1], "101101"),
        (2, 6.0, [2, 2, 2], [1] * 3, "101"),
        (8, 3.0, [2, 2.1, 1.9, 2, 2.05, 5, 2, 2.6], [1] * 8, "11111011"),
    ],
)
def test_olmo(window, sigma, losses, norms, olmo):
    """OLMo-core's vectors, but for the second step, where it divides 0 by 0."""
    expected = [bit == "1" for bit in olmo]
    expected[1] = True
    guard = stabjax.skip_on_spike(optax.identity(), window=window, z_threshold=sigma)
    _, metrics = run(guard, jnp.asarray(norms, jnp.float32), losses)
    assert (~of("skip_on_spike", metrics)["skipped"]).tolist() == expected


def test_a_step_that_is_skipped_leaves_everything_alone(standard_promotion):
    """Moments, their step count, the schedule's count: bit by bit."""
    rate = stabjax.linear_schedule(0.1, 0.0, 10)
    inner = optax.chain(stabjax.clip_by_global_norm(1.0), optax.adam(rate))
    guard = stabjax.skip_if_nonfinite(inner)
    params = {"w": jnp.array([1.0, 2.0])}

    @jax.jit
    def both(grads, state):
        return guard.update(grads, state, params)

    _, state = both(params, guard.init(params))
    updates, after = both({"w": jnp.array([1.0, NAN])}, state)
    jax.tree.map(np.testing.assert_array_equal, after.inner_state, state.inner_state)
    assert updates["w"].tolist() == [0, 0]
    # And the next step is what it would have been.
    again, _ = both(params, after)
    expected, _ = both(params, state)
    np.testing.assert_array_equal(again["w"], expected["w"])


class TestRecovery:
    """The number of steps after which a guard works again is what docstrings state."""

    @staticmethod
    def skipped(norms, losses, **options):
        guard = stabjax.skip_on_spike(optax.identity(), **options)
        norms = jnp.asarray(norms, jnp.float32)
        _, metrics = run(guard, norms, losses)
        return np.flatnonzero(of("skip_on_spike", metrics)["skipped"])

    @pytest.mark.parametrize(
        "options, most", [({}, 4), ({"window": 64, "z_threshold": 3.0}, 7)]
    )
    def test_after_a_lasting_change_of_scale(self, options, most):
        """At most window / (1 + z_threshold^2); as sensitive one window later."""
        window = options.get("window", 128)
        assert most == np.ceil(window / (1 + options.get("z_threshold", 6.0) ** 2))
        rng = np.random.default_rng(0)
        noise = 1 + 0.01 * rng.normal(size=2 * window + most + 2)
        norms = noise * np.where(np.arange(len(noise)) < window, 1, 100)
        norms[-1] *= 2  # a spike at the new level
        losses = noise
        found = self.skipped(norms, losses, **options)
        np.testing.assert_array_equal(found[:-1], window + np.arange(len(found) - 1))
        assert 0 < len(found) - 1 <= most
        assert found[-1] == len(noise) - 1

    def test_after_a_step_that_was_not_finite(self):
        noise = 1 + 0.01 * np.sin(np.arange(100))
        norms, losses = noise.copy(), noise.copy()
        norms[80], losses[82], norms[84] = NAN, INF, 9.0
        assert self.skipped(norms, losses).tolist() == [80, 82, 84]

    def test_zeros_and_a_constant(self):
        """From zeros nothing is known; a constant may move by roundings."""
        norms = np.r_[np.zeros(20), np.ones(80)]
        norms[60:] *= 1 + 1e-6
        assert self.skipped(norms, np.zeros(100), window=16).tolist() == []


@pytest.mark.slow
def test_derivatives_through_a_skipped_step(standard_promotion):
    """Finite, and those of the training without that step; also where both run."""
    grads = {"w": jnp.array([[3.0, 4.0], [1.0, 2.0], [-2.0, 1.0]])}
    bad = {"w": jnp.insert(grads["w"], 1, jnp.array([NAN, 1.0]), axis=0)}

    def end(numbers, grads, guarded):
        inner = optax.chain(
            stabjax.clip_by_global_norm(numbers["max_norm"]),
            optax.adam(numbers["rate"]),
        )
        tx = stabjax.skip_on_spike(inner, window=4) if guarded else inner

        def step(carry, g):
            params, state = carry
            pulled = jax.tree.map(lambda g, w: g + w, g, params)
            updates, state = tx.update(pulled, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = {"w": jnp.ones(2)}
        (params, state), _ = jax.lax.scan(step, (params, tx.init(params)), grads)
        # The metrics too, as whoever differentiates the whole carry would.
        seen = sum(0 * jnp.nan_to_num(m) for m in stabjax.metrics(state).values())
        return jnp.sum(params["w"] ** 2) + (seen if guarded else 0)

    @jax.jit
    def all_slopes(numbers):
        slopes = jax.grad(end)
        many = jax.tree.map(lambda x: jnp.stack([2 * x, x]), numbers)
        batched = jax.vmap(lambda n: slopes(n, bad, True))(many)
        one = jax.tree.map(lambda x: x[1], batched)
        return slopes(numbers, grads, False), slopes(numbers, bad, True), one

    numbers = {"max_norm": jnp.float32(3.0), "rate": jnp.float32(0.1)}
    expected, alone, batched = all_slopes(numbers)
    for name, slope in expected.items():
        assert abs(slope) > 1e-3
        np.testing.assert_allclose([alone[name], batched[name]], slope, rtol=1e-5)


def test_extra_arguments_pass_through():
    inner = stabjax.reduce_on_plateau(0.5, patience=1)
    guard = stabjax.skip_on_spike(inner, window=4)
    updates, metrics = run(guard, jnp.ones(3), [1.0, 1.0, 1.0])
    assert updates.tolist() == [1, 0.5, 0.25]
    assert metrics["reduce_on_plateau/scale"].tolist() == [1, 0.5, 0.25]


def test_without_the_loss_the_norm_is_watched():
    guard = stabjax.skip_on_spike(optax.identity(), window=4)

    def step(state, grad):
        updates, state = guard.update(grad, state)
        return state, updates

    norms = jnp.array([1.0, 1.1, 1.0, 9.0, 1.0])
    _, updates = jax.lax.scan(step, guard.init(jnp.ones(())), norms)
    np.testing.assert_allclose(updates, [1, 1.1, 1, 0, 1])


def test_after_the_limit_a_spike_passes():
    norms = jnp.array([1.0, 1.1, 0.9, 1.0, 50.0, 5e3, 5e5, 5e7])
    for most, expected in ((2, 0b1100), (INF, 0b1111)):
        guard = stabjax.skip_on_spike(optax.identity(), window=4, max_consecutive=most)
        _, metrics = run(guard, norms)
        skipped = of("skip_on_spike", metrics)["skipped"]
        assert skipped.tolist() == [False] * 4 + [
            bit == "1" for bit in f"{expected:04b}"
        ]


def test_finite_gradients_whose_norm_overflows_pass():
    grads = {"w": jnp.full((6, 8), 3e38)}
    for guard in (
        stabjax.skip_if_nonfinite(optax.identity()),
        stabjax.skip_above_norm(optax.identity(), INF),
        stabjax.skip_on_spike(optax.identity(), window=4),
    ):
        updates, _ = run(guard, grads)
        np.testing.assert_array_equal(updates["w"], grads["w"])


def test_updates_may_have_another_dtype_than_gradients(standard_promotion):
    """Weight decay in float32 makes float32 of half-precision gradients."""
    guard = stabjax.skip_if_nonfinite(optax.adamw(0.1))
    params = {"w": jnp.ones(2)}
    updates, _ = guard.update(
        {"w": jnp.array([NAN, 1], jnp.bfloat16)}, guard.init(params), params
    )
    assert updates["w"].dtype == jnp.float32 and updates["w"].tolist() == [0, 0]


def test_all_shards_decide_alike():
    guard = stabjax.skip_if_nonfinite(optax.trace(0.9), axis_name="d")
    mesh = Mesh(np.array(jax.devices()), ("d",))
    grads = {"a": jnp.ones(8), "b": jnp.ones(8).at[5].set(NAN)}

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=P("d"), out_specs=(P("d"), P())
    )
    def step(grads):
        updates, state = guard.update(grads, guard.init(grads))
        return updates, stabjax.metrics(state)

    updates, metrics = step(grads)
    assert not np.any(updates["a"]) and not np.any(updates["b"])
    seen = of("skip_if_nonfinite", metrics)
    assert (seen["nonfinite_leaf"], seen["skip_count"]) == (1, 1)


class TestCheck:
    params = {"dense": {"bias": jnp.zeros(2), "kernel": jnp.zeros(3)}}

    def after(self, steps, leaf="kernel"):
        tx = optax.chain(stabjax.skip_if_nonfinite(optax.sgd(0.1)), optax.identity())
        grads = jax.tree.map(jnp.ones_like, self.params)
        grads["dense"][leaf] = grads["dense"][leaf].at[0].set(NAN)

        def step(state, grads):
            return tx.update(grads, state, self.params)[1], None

        grads = jax.tree.map(lambda g: jnp.stack([g] * steps), grads)
        return jax.lax.scan(step, tx.init(self.params), grads)[0]

    def test_says_what_why_and_where(self):
        state = self.after(3)
        assert stabjax.check_guards(state) is None
        stabjax.check_guards(state, max_consecutive=3)
        streak = "skip_if_nonfinite found 3 consecutive bad steps, .* at most 2 .*"
        counts = "nonfinite_count 3, skip_count 3, skip_fraction 1.*"
        with pytest.raises(RuntimeError, match=streak + counts + "was number 1"):
            stabjax.check_guards(state, max_consecutive=2)
        with pytest.raises(RuntimeError, match="gradient was 'dense/kernel'"):
            stabjax.check_guards(state, self.params, max_consecutive=2)

    def test_the_worst_of_a_batch(self):
        states = [self.after(1, "bias"), self.after(1), self.after(1)]
        batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        one = batch[0]
        streaks = one.metrics | {
            "skip_if_nonfinite:consecutive": jnp.array([1, 20, 3], jnp.int32)
        }
        with pytest.raises(RuntimeError, match="found 20 .* 'dense/kernel'"):
            stabjax.check_guards((one._replace(metrics=streaks),), self.params)

    @pytest.mark.parametrize(
        ("tx", "names"),
        [
            (optax.adam(0.1), "ScaleByAdamState, EmptyState"),
            (optax.identity(), "EmptyState"),
            (stabjax.zclip(), "HistoryClipState"),
        ],
    )
    def test_states_without_guards_are_an_error(self, tx, names):
        message = rf"must contain a guard such as .*skip_if_nonfinite, got {names}\."
        with pytest.raises(ValueError, match=message):
            stabjax.check_guards(tx.init(self.params))
        with pytest.raises(TypeError, match="got GradientTransformation"):
            stabjax.check_guards(tx)

    def test_is_for_the_host(self):
        with pytest.raises(TypeError, match="outside of jit"):
            jax.jit(stabjax.check_guards)(self.after(1))


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: stabjax.skip_if_nonfinite(optax.sgd),
            TypeError,
            "inner must be an optax.GradientTransformation, got <function sgd",
        ),
        (
            lambda: stabjax.skip_if_nonfinite(MOMENTUM, max_consecutive=-1),
            ValueError,
            "max_consecutive must be >= 0, got -1.",
        ),
        (
            lambda: stabjax.skip_above_norm(MOMENTUM, -1.0),
            ValueError,
            "drop_norm must be >= 0, got -1.0.",
        ),
        (
            lambda: stabjax.skip_on_spike(MOMENTUM, window=1),
            ValueError,
            "window must be an integer >= 2, got 1.",
        ),
        (
            lambda: stabjax.skip_on_spike(MOMENTUM, z_threshold=-1.0),
            ValueError,
            "z_threshold must be >= 0, got -1.0.",
        ),
        (
            lambda: stabjax.skip_on_spike(MOMENTUM, window=8, min_count=9),
            ValueError,
            r"min_count must be in \[1, 8\], got 9.",
        ),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda x: stabjax.skip_if_nonfinite(MOMENTUM, max_consecutive=x), "max_cons"),
        (lambda x: stabjax.skip_above_norm(MOMENTUM, x), "drop_norm"),
        (lambda x: stabjax.skip_on_spike(MOMENTUM, z_threshold=x), "z_threshold"),
        (lambda x: stabjax.skip_on_spike(MOMENTUM, min_count=x), "min_count"),
        (lambda x: stabjax.reduce_on_plateau(patience=x), "patience"),
        (lambda x: stabjax.reduce_on_plateau(0.1, 1, x), "rtol"),
    ],
)
def test_what_is_not_a_number_is_named(make, name):
    for bad in ("1", True, [1.0, "x"], 1j, *([None] * (name != "min_count"))):
        with pytest.raises(TypeError, match=f"{name}.* must be a number, got"):
            make(bad)
    with pytest.raises(ValueError, match=rf"{name}.* must be a scalar, got shape"):
        make(jnp.ones(2))


def test_a_loss_that_is_not_judged_may_have_any_shape():
    update = lambda g, s, p=None, *, value: (value[0] * g, s)  # noqa: E731
    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    guard = stabjax.skip_if_nonfinite(inner)
    updates, _ = guard.update(jnp.ones(2), guard.init(jnp.ones(2)), value=jnp.ones(3))
    np.testing.assert_array_equal(updates, 1.0)


def test_the_loss_is_one_number():
    guard = stabjax.skip_on_spike(MOMENTUM)
    with pytest.raises(
        ValueError, match=r"value must be a scalar, got an array of shape \(2,\)."
    ):
        guard.update(jnp.ones(2), guard.init(jnp.ones(2)), value=jnp.ones(2))


ONE_ELEMENT = {
    "max_consecutive": lambda x: stabjax.skip_if_nonfinite(
        optax.sgd(1.0), max_consecutive=x
    ),
    "drop_norm": lambda x: stabjax.skip_above_norm(optax.sgd(1.0), x),
    "z_threshold": lambda x: stabjax.skip_on_spike(optax.sgd(1.0), z_threshold=x),
    "factor": lambda x: stabjax.reduce_on_plateau(factor=x / 8, patience=1),
    "patience": lambda x: stabjax.reduce_on_plateau(patience=x),
}


@pytest.mark.parametrize("name", ONE_ELEMENT)
def test_numbers_of_one_element_are_scalars_and_others_are_refused(
    name, standard_promotion
):
    params = jnp.zeros(2)
    for two in (jnp.array([2.0]), np.array([2.0]), jnp.array(2.0)):
        tx = ONE_ELEMENT[name](two)
        state = tx.init(params)
        _, after = tx.update(jnp.ones(2), state, params, value=1.0)
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    with pytest.raises(ValueError, match=f"{name} must be a scalar, got shape"):
        ONE_ELEMENT[name](jnp.array([2.0, 3.0]))


def test_integers_beyond_int32_are_numbers(standard_promotion):
    huge, params = 10**10, jnp.ones(2)
    for tx in (
        stabjax.clip_by_global_norm(huge),
        stabjax.clip(huge),
        stabjax.clip_by_block_norm(huge),
        stabjax.skip_above_norm(optax.sgd(-1.0), huge),
        stabjax.skip_if_nonfinite(optax.sgd(-1.0), max_consecutive=huge),
    ):
        updates, _ = tx.update(params, tx.init(params), params)
        np.testing.assert_allclose(updates, params)


def test_unless_skipped_takes_one_run_and_trees_alike():
    tx = stabjax.skip_if_nonfinite(optax.sgd(0.1))
    params = jnp.zeros((2, 3))
    grads = jnp.array([[1.0, 1.0, 1.0], [jnp.nan, 1.0, 1.0]])
    _, state = jax.vmap(tx.update)(grads, jax.vmap(tx.init)(params), params)
    with pytest.raises(ValueError, match=r"batch of shape \(2,\). Use jax.vmap"):
        stabjax.unless_skipped(state, jnp.ones((2, 3)), params)
    kept = jax.vmap(stabjax.unless_skipped)(state, jnp.ones((2, 3)), params)
    np.testing.assert_array_equal(kept, [[1, 1, 1], [0, 0, 0]])
    _, one = tx.update(grads[0], tx.init(params[0]), params[0])
    with pytest.raises(ValueError, match="same shapes and dtypes"):
        stabjax.unless_skipped(one, jnp.ones(3), jnp.zeros(()))


@pytest.mark.parametrize("limit, shown", [(-1e-8, 0.0), (-1.0, NAN), (NAN, NAN)])
def test_a_schedule_below_zero_is_a_mistake_unless_rounded(limit, shown):
    """As in the clips: what rounding moved below zero is zero, the rest is NaN."""
    schedule = optax.constant_schedule(jnp.float32(limit))
    optimizer = stabjax.skip_above_norm(MOMENTUM, schedule)
    _, metrics = run(optimizer, jnp.zeros((1, 2)))
    found = of("skip_above_norm", metrics)
    np.testing.assert_array_equal(found["drop_norm"], [shown])
    assert found["skipped"].tolist() == [np.isnan(shown)]
