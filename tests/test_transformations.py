"""The battery: every public transformation, and what each of them must be able to do.

A new transformation is covered by a row in `ROWS`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import stabjax


class Row(NamedTuple):
    make: Callable[..., optax.GradientTransformation]
    numbers: dict[str, float]  # numeric arguments, all traceable
    scheduled: str | None = None  # the argument that may be a schedule


ROWS = {
    "clip": Row(stabjax.clip, {"max_delta": 0.5}, "max_delta"),
    "clip_by_global_norm": Row(
        stabjax.clip_by_global_norm, {"max_norm": 0.5}, "max_norm"
    ),
    "clip_by_block_norm": Row(
        stabjax.clip_by_block_norm, {"max_norm": 0.5}, "max_norm"
    ),
    "clip_by_block_rms": Row(
        stabjax.clip_by_block_rms, {"threshold": 0.2}, "threshold"
    ),
    "adaptive_grad_clip": Row(
        stabjax.adaptive_grad_clip, {"clipping": 0.1, "eps": 1e-2}, "clipping"
    ),
    "with_metrics": Row(
        lambda max_norm: stabjax.with_metrics(
            stabjax.clip_by_global_norm(max_norm), name="clip"
        ),
        {"max_norm": 0.5},
        "max_norm",
    ),
}
# Public names with "clip" in them that are functions of arrays, not transformations.
FUNCTIONS = {
    "per_example_global_norm_clip",
    "per_example_layer_norm_clip",
    "unitwise_clip",
}
DTYPES = (jnp.float16, jnp.bfloat16, jnp.float32)

rows = pytest.mark.parametrize("name", ROWS)
both = pytest.mark.parametrize(
    ("name", "scheduled"), [(n, s) for n in ROWS for s in (False, True)]
)


def build(name, scheduled=False):
    row = ROWS[name]
    numbers = dict(row.numbers)
    if scheduled:
        start = numbers[row.scheduled]
        numbers[row.scheduled] = stabjax.linear_schedule(start, start / 4, 4)
    return row.make(**numbers)


def tree(seed, dtype=jnp.float32, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = {"w": (8, 4), "b": (8,), "s": ()}
    return {
        k: jnp.asarray(scale * rng.normal(size=shape), dtype)
        for k, shape in shapes.items()
    }


PARAMS, GRADS = tree(0), tree(1)


def once(tx, grads=GRADS, params=PARAMS):
    return tx.update(grads, tx.init(params), params)[0]


def close(x, y, rtol=1e-6):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=rtol, atol=1e-7
        ),
        x,
        y,
    )


def described(state):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), state)


def test_every_public_transformation_has_a_row():
    public = {name for name in stabjax.__all__ if "clip" in name} - FUNCTIONS
    assert public | {"with_metrics"} == set(ROWS)


@both
@pytest.mark.parametrize("dtype", DTYPES)
def test_state_and_updates_keep_structure_shapes_and_dtypes(name, scheduled, dtype):
    tx = build(name, scheduled)
    params, grads = tree(0, dtype), tree(1, dtype)
    state = tx.init(params)

    def step(state, _):
        updates, state = tx.update(grads, state, params)
        return state, updates

    end, updates = jax.jit(lambda s: jax.lax.scan(step, s, length=3))(state)
    assert jax.tree.structure(end) == jax.tree.structure(state)
    assert described(end) == described(state)
    last = jax.tree.map(lambda u: u[-1], updates)
    assert described(last) == described(grads)
    assert jax.tree.all(jax.tree.map(lambda u: bool(jnp.isfinite(u).all()), last))


@both
def test_jit_equals_eager(name, scheduled):
    tx = build(name, scheduled)
    state = tx.init(PARAMS)
    close(jax.jit(tx.update)(GRADS, state, PARAMS), tx.update(GRADS, state, PARAMS))


@rows
def test_vmap_over_each_number_equals_the_loop_and_derivatives_are_finite(name):
    row = ROWS[name]
    for argument, value in row.numbers.items():
        values = jnp.array([0.0, 0.3 * value, value, 1e6])

        def apply(number, argument=argument):
            return once(row.make(**{**row.numbers, argument: number}))

        loop = [jax.jit(apply)(number) for number in values]
        stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *loop)
        close(jax.vmap(apply)(values), stacked)
        for derivative in jax.tree.leaves(jax.vmap(jax.jacrev(apply))(values)):
            assert jnp.isfinite(derivative).all()


@rows
def test_derivative_by_the_gradient_is_finite_and_the_identity_at_zero(name):
    tx = build(name)

    def total(grads):
        return sum(jnp.sum(u) for u in jax.tree.leaves(once(tx, grads)))

    zeros = jax.tree.map(jnp.zeros_like, GRADS)
    for grads in (GRADS, zeros, tree(2, scale=1e30)):
        found = jax.jit(jax.grad(total))(grads)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    close(jax.jit(jax.grad(total))(zeros), jax.tree.map(jnp.ones_like, GRADS))


@rows
def test_other_numbers_are_not_another_trace(name):
    row, traces = ROWS[name], []

    @jax.jit
    def apply(numbers, grads):
        traces.append(name)
        return once(row.make(**numbers), grads)

    for factor in (1.0, 2.0, 3.0):
        numbers = {k: jnp.float32(factor * v) for k, v in row.numbers.items()}
        apply(numbers, tree(int(factor)))
    assert len(traces) == 1


@both
def test_works_inside_optax(name, scheduled, standard_promotion):
    tx = build(name, scheduled)
    expected = once(tx)
    mask = dict.fromkeys(PARAMS, True)
    containers = {
        "chain": optax.chain(optax.scale(2.0), optax.scale(0.5), tx),
        "masked": optax.masked(tx, mask),
        "multi_transform": optax.multi_transform(
            {"all": tx}, dict.fromkeys(mask, "all")
        ),
        "MultiSteps": optax.MultiSteps(tx, 1).gradient_transformation(),
    }
    for container in containers.values():
        close(once(container), expected)


@rows
def test_works_under_inject_hyperparams(name, standard_promotion):
    row = ROWS[name]
    if name == "with_metrics":  # a factory without a signature of its own to inject
        tx = optax.inject_hyperparams(lambda max_norm: row.make(max_norm))(max_norm=0.5)
    else:
        tx = optax.inject_hyperparams(row.make)(**row.numbers)
    state = tx.init(PARAMS)
    close(jax.jit(tx.update)(GRADS, state, PARAMS)[0], once(build(name)))
    numbers = stabjax.metrics(state)
    for argument, value in row.numbers.items():
        np.testing.assert_allclose(numbers[argument], value, rtol=1e-6)


@rows
def test_sharded_over_eight_devices_equals_one(name):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def spread(x):
        spec = PartitionSpec("data") if x.ndim else PartitionSpec()
        return jax.device_put(x, NamedSharding(mesh, spec))

    tx = build(name)
    params, grads = jax.tree.map(spread, (PARAMS, GRADS))
    assert len(grads["w"].sharding.device_set) == 8
    close(jax.jit(lambda g, p: once(tx, g, p))(grads, params), once(tx))


@both
def test_lowers_for_cuda_and_tpu(name, scheduled):
    tx = build(name, scheduled)
    update = jax.jit(tx.update)
    exported = export.export(update, platforms=("cuda", "tpu"))(
        GRADS, tx.init(PARAMS), PARAMS
    )
    assert exported.platforms == ("cuda", "tpu")


@pytest.mark.filterwarnings("ignore")  # Orbax's own
@both
def test_the_state_survives_a_checkpoint(name, scheduled, tmp_path):
    tx = build(name, scheduled)
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    held = {"state": state, "params": PARAMS}  # Orbax saves no empty tree
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", held)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "saved", held)
    assert jax.tree.structure(restored) == jax.tree.structure(held)
    jax.tree.map(np.testing.assert_array_equal, restored, held)
    after = tx.update(GRADS, restored["state"], PARAMS)
    jax.tree.map(np.testing.assert_array_equal, after, tx.update(GRADS, state, PARAMS))


@rows
@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_empty_tiny_and_huge_gradients_stay_finite(name, dtype):
    tx = build(name)
    huge = float(jnp.finfo(dtype).max)
    params = tree(0, dtype)
    update = jax.jit(lambda g: once(tx, g, params))
    for value in (0.0, 1e-7, huge, -huge):
        updates = update(jax.tree.map(lambda p, v=value: jnp.full_like(p, v), params))
        for leaf in jax.tree.leaves(updates):
            assert jnp.isfinite(leaf).all()
            assert value == 0.0 or jnp.all(leaf != 0) or abs(value) < 1
    assert tx.update({}, tx.init({}), {})[0] == {}


@rows
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_what_is_not_finite_is_never_hidden(name, bad):
    grads = {**GRADS, "b": GRADS["b"].at[3].set(bad)}
    updates = jax.jit(lambda g: once(build(name), g))(grads)
    if name == "clip":  # the documented exception: element by element
        expected = 0.5 if bad == jnp.inf else jnp.nan
        np.testing.assert_array_equal(updates["b"][3], expected)
    else:
        assert jnp.isnan(updates["b"]).all()
