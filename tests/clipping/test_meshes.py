"""Abstract parameters, explicit meshes and FSDP, for every transformation."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from battery import TRANSFORMATIONS
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import stabjax

pytestmark = pytest.mark.slow  # many rows, in many contexts

rows = pytest.mark.parametrize("row", TRANSFORMATIONS, ids=str)
DEVICES = 8
# One leaf sharded along each of its axes in turn, and one that stays replicated.
SPECS = {"w": P(None, "d"), "v": P("d"), "h": P(None, "d"), "s": P()}
SHAPES = {"w": (8, 16), "v": (DEVICES * 2,), "h": (2, 8, 4), "s": ()}
# The methods with moments: their states hold arrays of the parameters' shapes.
HAVE_MOMENTS = {
    "clip_by_second_moment",
    "scale_by_spam",
    "scale_by_stable_spam",
    "scale_by_stable_adam",
    "reset_moments",
}


def tree_of(seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    tree = {n: jnp.asarray(rng.normal(size=s), dtype) for n, s in SHAPES.items()}
    return tree | {"h": tree["h"].astype("float16")}


def without_values(params):
    return jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)


def mesh_of(axis_type):
    return jax.make_mesh((DEVICES,), ("d",), axis_types=(axis_type,))


def spread(tree, mesh):
    return {
        name: jax.device_put(leaf, NamedSharding(mesh, SPECS[name]))
        for name, leaf in tree.items()
    }


def update_of(row):
    tx = row.make(**row.numbers)
    return lambda updates, state, params: tx.update(updates, state, params, **row.extra)


@functools.cache
def on_one_device(row_id):
    """The updates of the last of the gradients, and the state after it."""
    (row,) = (row for row in TRANSFORMATIONS if str(row) == row_id)
    return updates_of(row, jax.jit(update_of(row)), tree_of(0), tree_of(1))


def updates_of(row, update, params, grads):
    state = row.make(**row.numbers).init(params)
    for size in (*row.before, 1.0):
        scaled = jax.tree.map(lambda g: g * size, grads)  # noqa: B023
        updates, state = update(scaled, state, params)
    return updates, state


def bytes_on(tree, device):
    return sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(tree)
        for shard in leaf.addressable_shards
        if shard.device == device
    )


def assert_close(actual, expected):
    chex.assert_trees_all_equal_structs(actual, expected)
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        rtol = 2e-3 if x.dtype == jnp.float16 else 1e-6
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol, 1e-7)


def state_of(row, params):
    return row.make(**row.numbers).init(params)


@rows
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_state_from_shapes(row, dtype):
    """As trainers make it that restore a checkpoint without making parameters."""
    params = tree_of(0, dtype)
    abstract, real = state_of(row, without_values(params)), state_of(row, params)
    chex.assert_trees_all_equal(abstract, real)
    assert jax.tree.map(jax.typeof, abstract) == jax.tree.map(jax.typeof, real)


@rows
def test_state_from_sharded_shapes(row):
    mesh = mesh_of(AxisType.Auto)
    params = spread(tree_of(0), mesh)
    shapes = {
        name: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding)
        for name, p in params.items()
    }
    for abstract, real in zip(
        jax.tree.leaves(state_of(row, shapes)),
        jax.tree.leaves(state_of(row, params)),
        strict=True,
    ):
        assert jax.typeof(abstract) == jax.typeof(real)
        assert abstract.sharding.is_equivalent_to(real.sharding, real.ndim)


@rows
def test_explicit_mesh(row):
    """Types, which name the sharding, stay; eagerly and under `jit`."""
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        params, grads = spread(tree_of(0), mesh), spread(tree_of(1), mesh)
        types = jax.tree.map(jax.typeof, state_of(row, params))
        jitted = jax.jit(functools.partial(state_of, row))(params)
        assert jax.tree.map(jax.typeof, jitted) == types
        for mode in (lambda function: function, jax.jit):
            updates, state = updates_of(row, mode(update_of(row)), params, grads)
            assert jax.tree.map(jax.typeof, state) == types
            assert jax.tree.map(jax.typeof, updates) == jax.tree.map(jax.typeof, grads)
            assert_close((updates, state), on_one_device(str(row)))


@rows
def test_fsdp(row):
    """Parameters, gradients and state sharded over eight devices; state donated."""
    mesh = mesh_of(AxisType.Auto)
    params, grads = spread(tree_of(0), mesh), spread(tree_of(1), mesh)
    update = jax.jit(update_of(row), donate_argnums=1)
    found = updates_of(row, update, params, grads)
    # Within rounding, not to the bit: partial sums are added in another order.
    assert_close(found, on_one_device(str(row)))
    for before, after in zip(
        jax.tree.leaves(state_of(row, params)), jax.tree.leaves(found[1]), strict=True
    ):
        if isinstance(before.sharding, NamedSharding):
            assert after.sharding.is_equivalent_to(before.sharding, after.ndim)


@rows
def test_fsdp_divides_the_memory_of_the_state(row):
    mesh = mesh_of(AxisType.Auto)
    params = {"w": jnp.zeros((256, 256)), "v": jnp.zeros(1024)}
    state = state_of(row, spread(params, mesh))
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert (params["w"].shape in shapes) == (row.name in HAVE_MOMENTS)
    if row.name in HAVE_MOMENTS:
        whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        for device in mesh.devices.flat:
            assert bytes_on(state, device) == pytest.approx(whole / DEVICES, rel=0.01)


# In `shard_map`: sharded over both axes, over one, and replicated.
TWO_AXES = {"w": P("a", "b"), "v": P("a"), "h": P(None, ("a", "b")), "s": P()}


def in_shard_map(row, params, grads, *, check_vma=True, **axes):
    """Updates and metrics, as if on one device."""
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)

    def all_updates(params, grads):
        tx = row.make(**row.numbers, **axes)
        state = tx.init(params)
        for size in (*row.before, 1.0):
            scaled = jax.tree.map(lambda g: g * size, grads)  # noqa: B023
            updates, state = tx.update(scaled, state, params, **row.extra)
        return updates, stabjax.metrics(state)

    return jax.jit(
        jax.shard_map(
            all_updates,
            mesh=mesh,
            in_specs=(TWO_AXES, TWO_AXES),
            out_specs=(TWO_AXES, P()),
            check_vma=check_vma,
        )
    )(params, grads)


# Types do not show along which array axis a leaf is sharded: a unit's, or examples.
MUST_BE_STATED = {
    "adaptive_grad_clip",
    "differentially_private_aggregate",
    "adaptive_quantile_clip",
}


@rows
def test_shard_map(row):
    """Nobody says which leaves are sharded: their types do, or an error asks."""
    if row.name in MUST_BE_STATED:
        with pytest.raises(ValueError, match="axis(_name)? must .* got None"):
            in_shard_map(row, tree_of(0), tree_of(1))
        return
    found = in_shard_map(row, tree_of(0), tree_of(1))
    updates, state = on_one_device(str(row))
    assert_close(found, (updates, stabjax.metrics(state)))


TAKE_AXES = [
    row
    for row in TRANSFORMATIONS
    if "axis_name" in inspect.signature(row.make).parameters
    and row.name not in MUST_BE_STATED - {"adaptive_grad_clip"}
]


@pytest.mark.parametrize("row", TAKE_AXES, ids=str)
def test_shard_map_whose_types_say_nothing(row):
    axis_name = {"w": ("a", "b"), "v": "a", "h": ("a", "b"), "s": ()}
    if row.name == "adaptive_grad_clip":  # units are the slices along axis 0
        axis_name = {"w": "a", "v": "a", "h": (), "s": ()}
    found = in_shard_map(
        row, tree_of(0), tree_of(1), check_vma=False, axis_name=axis_name
    )
    updates, state = on_one_device(str(row))
    assert_close(found, (updates, stabjax.metrics(state)))
