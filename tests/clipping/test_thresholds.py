"""Every transformation that takes a threshold: schedules, trees, awkward leaves."""

import dataclasses
import functools
import inspect

import chex
import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import stabjax

pytestmark = pytest.mark.slow  # many makers, in many contexts

# The name of a transformation -> how to make it from its threshold.
MAKERS = {
    "clip": stabjax.clip,
    "clip_by_global_norm": stabjax.clip_by_global_norm,
    "clip_by_global_norm-3": functools.partial(stabjax.clip_by_global_norm, ord=3),
    "clip_by_block_norm": stabjax.clip_by_block_norm,
    "clip_by_block_rms": stabjax.clip_by_block_rms,
    "adaptive_grad_clip": stabjax.adaptive_grad_clip,
    "adaptive_grad_clip-0": functools.partial(stabjax.adaptive_grad_clip, eps=0.0),
    "smooth_clip_by_global_norm": stabjax.smooth_clip_by_global_norm,
    "smooth_clip-sqrt": functools.partial(
        stabjax.smooth_clip_by_global_norm, kind="sqrt"
    ),
    "clip_by_relative_update": functools.partial(
        stabjax.clip_by_relative_update, absolute=0.0
    ),
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
GRADS = {"w": jnp.array([[3.0, -4.0], [0.5, 1.0]]), "b": jnp.array([-2.0, 1e-3])}
# A parameter of zero: a threshold of inf times it is no bound, and not NaN.
PARAMS = {"w": jnp.array([[1.0, 2.0], [0.0, 1.0]]), "b": jnp.array([0.0, 0.5])}
TO_ZERO = {
    "stabjax": stabjax.linear_schedule(1.0, 0.0, 3),
    # Compiled, its end is -2e-8.
    "optax": optax.linear_schedule(1.0, 0.0, 3),
    "python": lambda count: jnp.where(count < 3, 0.7, 0.0),
}
TO_INF = {
    "step": lambda count: jnp.where(count < 3, 0.7, jnp.inf),
    "quotient": lambda count: 1 / jnp.maximum(3.0 - count.astype(jnp.float32), 0.0),
}


def scanned(make, schedule, grads, steps=6):
    """The updates of each step."""
    tx = make(schedule)

    def step(state, _):
        updates, state = tx.update(grads, state, PARAMS)
        return state, updates

    return jax.lax.scan(step, tx.init(grads), None, length=steps)[1]


def eager(make, schedule, grads, steps=6):
    tx = make(schedule)
    state, rows = tx.init(grads), []
    for _ in range(steps):
        updates, state = tx.update(grads, state, PARAMS)
        rows.append(updates)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


def contexts(make, schedule, grads):
    run = functools.partial(scanned, make, schedule)
    yield "eager", eager(make, schedule, grads)
    yield "jit", jax.jit(run)(grads)
    batch = jax.tree.map(lambda g: jnp.stack([g, -g]), grads)
    yield "vmap", jax.tree.map(lambda x: x[0], jax.jit(jax.vmap(run))(batch))


@makers
@pytest.mark.parametrize(
    ("end", "dtype"),
    [("stabjax", "float32"), ("optax", "float32"), ("python", "bfloat16")],
)
@pytest.mark.usefixtures("standard_promotion")
def test_a_schedule_that_reaches_zero_gives_zeros(make, end, dtype):
    grads = jax.tree.map(lambda g: g.astype(dtype), GRADS)
    for context, updates in contexts(make, TO_ZERO[end], grads):
        chex.assert_tree_all_finite(updates)
        for name, update in updates.items():
            assert not np.any(update[3:]), (context, name)
            turned = np.sign(update[:3]) * np.sign(grads[name]) < 0
            assert not np.any(turned), (context, name)


@makers
@pytest.mark.parametrize(
    ("end", "dtype"), [("step", "bfloat16"), ("quotient", "float32")]
)
def test_a_schedule_that_reaches_infinity_is_the_identity(make, end, dtype):
    grads = jax.tree.map(lambda g: g.astype(dtype), GRADS)
    for context, updates in contexts(make, TO_INF[end], grads):
        for name, update in updates.items():
            for row in update[3:]:
                np.testing.assert_array_equal(row, grads[name], err_msg=context)


@makers
def test_constants_of_zero_and_infinity(make):
    for threshold in (0, 0.0, jnp.float16(0), np.float64(0)):
        updates, _ = make(threshold).update(GRADS, optax.EmptyState(), PARAMS)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates))
    for threshold in (np.inf, jnp.float16(np.inf)):
        updates, _ = make(threshold).update(GRADS, optax.EmptyState(), PARAMS)
        chex.assert_trees_all_equal(updates, GRADS)


@makers
def test_a_schedule_rounded_below_zero_is_zero_and_what_is_negative_shows(make):
    for value, expected in ((-1e-8, 0), (-0.5, np.nan), (np.nan, np.nan)):
        tx = make(lambda count: jnp.float32(value))  # noqa: B023
        updates, _ = tx.update(GRADS, tx.init(GRADS), PARAMS)
        for leaf in jax.tree.leaves(updates):
            np.testing.assert_array_equal(leaf, np.full(leaf.shape, expected))


@makers
def test_a_threshold_in_float64_is_used_as_it_is_compared(make):
    """Also beside float32 gradients, where rounding might turn the comparison."""
    with jax.enable_x64():
        grads = {"x": jnp.array([0.1, 0.2], jnp.float32)}
        params = {"x": jnp.array([1.0, 1.0], jnp.float32)}
        for threshold in (jnp.float64(1e-300), jnp.float64(0.1), np.float64(1e300)):
            updates, _ = make(threshold).update(grads, optax.EmptyState(), params)
            assert updates["x"].dtype == jnp.float32
            chex.assert_tree_all_finite(updates)


# What is a schedule, and what a tree.


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Module:
    """A tree that can be called, as an Equinox module."""

    w: jax.Array
    b: jax.Array

    def __call__(self, x):
        return x * self.w + self.b


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Constant:
    """A callable tree without leaves."""

    value: float = dataclasses.field(metadata={"static": True})

    def __call__(self, count):
        return self.value


def by_hand(make, thresholds):
    """Each group clipped by itself."""
    return {
        key: make(thresholds[key]).update(GRADS[key], optax.EmptyState(), PARAMS[key])[
            0
        ]
        for key in thresholds
    }


THRESHOLDS = {"w": 0.5, "b": 0.1}


@makers
def test_a_callable_tree_with_leaves_is_a_tree(make):
    got, state = make(Module(**THRESHOLDS)).update(
        Module(**GRADS), optax.EmptyState(), Module(**PARAMS)
    )
    assert state == optax.EmptyState()
    chex.assert_trees_all_equal(got, Module(**by_hand(make, THRESHOLDS)))


@makers
def test_a_callable_without_leaves_is_a_schedule(make):
    expected, _ = make(0.5).update(GRADS, optax.EmptyState(), PARAMS)
    held = jax.tree_util.Partial(lambda value, count: value, jnp.float32(0.5))
    for schedule in (Constant(0.5), held, functools.partial(Constant(0.5))):
        tx = make(schedule)
        got, state = tx.update(GRADS, tx.init(GRADS), PARAMS)
        assert int(state.clip_step) == 1
        chex.assert_trees_all_equal(got, expected)


def test_guards_and_rates_follow_the_same_rule():
    for schedule in (Constant(1.0), jax.tree_util.Partial(lambda count: 1.0)):
        guard = stabjax.skip_above_norm(optax.sgd(1.0), schedule)
        updates, _ = guard.update(GRADS, guard.init(GRADS))
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates))
    with pytest.raises(TypeError, match="drop_norm must be a number"):
        stabjax.skip_above_norm(optax.sgd(1.0), Module(1.0, 2.0))


# Trees that people have.

CONTAINERS = {
    "dict": dict,
    "FrozenDict": flax.core.freeze,
    "Module": lambda tree: Module(**tree),
    "State": lambda tree: nnx.State({k: nnx.Param(v) for k, v in tree.items()}),
    "State of arrays": nnx.State,
}


@makers
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_dict_of_thresholds_matches_every_container(make, container):
    grads, params = CONTAINERS[container](GRADS), CONTAINERS[container](PARAMS)
    got, _ = make(THRESHOLDS).update(grads, optax.EmptyState(), params)
    expected = CONTAINERS[container](by_hand(make, THRESHOLDS))
    chex.assert_trees_all_equal(got, expected)


@makers
def test_schedules_in_a_tree(make):
    tx = make({"w": lambda count: 0.5, "b": 0.1})
    got, state = jax.jit(tx.update)(GRADS, tx.init(GRADS), PARAMS)
    expected = by_hand(make, THRESHOLDS)
    chex.assert_trees_all_close(got, expected, rtol=1e-6)
    thresholds = [
        v for k, v in stabjax.metrics(state).items() if k[-2:] in ("/w", "/b")
    ]
    np.testing.assert_allclose(sorted(map(float, thresholds)), [0.1, 0.5])


@makers
def test_groups_of_a_deeper_tree_and_masked_parts(make):
    thresholds = {"body": {"w": 0.5, "b": 0.1}, "head": 1.0}
    for masked in (None, optax.MaskedNode(), {}, {"x": None}):
        grads = {"body": GRADS, "head": masked}
        params = {"body": PARAMS, "head": masked}
        got, _ = make(thresholds).update(grads, optax.EmptyState(), params)
        chex.assert_trees_all_equal(got["body"], by_hand(make, THRESHOLDS))
        assert jax.tree.structure(got) == jax.tree.structure(grads)


@makers
def test_thresholds_that_match_no_parameter_raise(make):
    for thresholds, message in (
        ({"w": 1.0}, "must have a value for every parameter, got none for 'b'"),
        (THRESHOLDS | {"c": 1.0}, "must only have values for parameters.*'c'"),
        ({"w": {"x": 1.0}, "b": 1.0}, "must have a value for every .* for 'w'"),
    ):
        with pytest.raises(ValueError, match=message):
            make(thresholds).update(GRADS, optax.EmptyState(), PARAMS)


@makers
def test_leaves_of_python_and_of_integers(make):
    """Python floats become arrays; the gradients of integers (float0) stay."""
    grads = jax.grad(lambda p: jnp.sum(3.0 * p["w"]) + 2.0 * p["s"], allow_int=True)(
        {"w": jnp.ones(2), "s": 1.0, "n": jnp.arange(3)}
    )
    params = {"w": jnp.ones(2), "s": 1.0, "n": jnp.arange(3)}
    expected, _ = make(0.5).update(
        {"w": grads["w"], "s": jnp.float32(2.0)},
        optax.EmptyState(),
        {"w": params["w"], "s": jnp.float32(1.0)},
    )
    tx = stabjax.with_metrics(make(0.5), name="m")
    for update in (tx.update, jax.jit(tx.update)):
        got, state = update(grads | {"s": 2.0}, tx.init(params), params)
        assert got["n"].shape == (3,)
        chex.assert_trees_all_close({"w": got["w"], "s": got["s"]}, expected, rtol=1e-6)
        norm = stabjax.global_norm({"w": grads["w"], "s": 2.0})
        np.testing.assert_allclose(
            stabjax.metrics(state)["m/grad_norm"], norm, rtol=1e-6
        )


@makers
def test_a_leaf_that_is_not_an_array_is_named(make):
    grads = {"layers": [{"w": jnp.ones(2), "act": jax.nn.relu}]}
    with pytest.raises(TypeError, match=r"updates must contain arrays.*'layers/0/act'"):
        make(1.0).update(grads, optax.EmptyState(), grads)


@makers
@pytest.mark.parametrize("bad", (None, "1", True, 1j, {}, [], {"w": None, "b": "1"}))
def test_thresholds_of_the_wrong_kind_name_the_argument(make, bad):
    argument = next(
        name
        for name in ("max_norm", "max_delta", "threshold", "clipping", "relative")
        if name in inspect.signature(make).parameters
    )
    with pytest.raises(TypeError, match=rf"^{argument} must be a number, got .*\.$"):
        make(bad)


# Whether a known clip clips.


@makers
@pytest.mark.parametrize("scheduled", (False, True))
def test_half_precision_is_not_taken_for_clipping(make, scheduled):
    """Under `jit` XLA holds gradients in float32 that are rounded where they end."""
    limit = jnp.float32(1e6)
    x = jax.random.normal(jax.random.key(0), (16, 8), jnp.bfloat16)
    params = {"w": jax.random.normal(jax.random.key(1), (8, 4), jnp.bfloat16)}
    tx = stabjax.with_metrics(
        make((lambda count: limit) if scheduled else limit), name="m"
    )

    @jax.jit
    def step(params, state):
        grads = jax.grad(
            lambda p: jnp.mean(jnp.tanh(x @ p["w"]).astype(jnp.float32) ** 2)
        )(params)
        return tx.update(grads, state, params)

    for _ in range(2):
        _, state = step(params, tx.init(params))
    metrics = stabjax.metrics(state)
    smooth = "smooth" in str(make)
    assert smooth or float(metrics["m/clip_fraction"]) == 0.0
