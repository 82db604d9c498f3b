"""Norms of random trees on eight devices: any dtype, any magnitude, any sharding."""

import functools

import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import stabjax

AXES = ("d", "e")
# Every leaf over any subset of two axes; trees differ in dtypes and numbers.
SPECS = [P(), P("d"), P(None, "e"), P("d", "e"), P("e", "d"), P(("d", "e"))]
DTYPES = ("float16", "bfloat16", "float32", "complex64")
ORDERS = (1, 2, 3, np.inf)
SHAPE = (8, 8)


def random_leaves(rng, dtype, cases):
    """Elements of one magnitude, from the whole range of exponents, or of many."""
    limits = jnp.finfo(jnp.dtype(dtype).type(0).real.dtype)
    low, high = np.log2(float(limits.tiny)) + 12, np.log2(float(limits.max)) - 8
    shape, each = (cases, *SHAPE), (cases, 1, 1)
    varied = rng.random(each) < 0.5
    exponents = np.where(
        varied, rng.uniform(low, high, shape), rng.uniform(low, high, each)
    )
    numbers = rng.choice([-1, 1], shape) * rng.uniform(1, 2, shape) * 2.0**exponents
    sparse = rng.random(each) < 0.2
    numbers = np.where(sparse & (rng.random(shape) > 0.2), 0, numbers)
    if "complex" in dtype:
        numbers = numbers * np.exp(1j * rng.uniform(0, 6, each))
    return jnp.asarray(numbers, dtype)


def layout(number):
    """The dtypes of a tree, and how its leaves are sharded."""
    rng = np.random.default_rng(number)
    size = rng.integers(1, 6)
    dtypes = rng.choice(DTYPES, size)
    return dtypes, [SPECS[i] for i in rng.integers(0, len(SPECS), size)]


def norms(trees):
    """All norms of each tree, one tree after the other: dispatch costs most of all."""
    return jax.lax.map(
        lambda tree: [
            (stabjax.global_norm(tree, p), stabjax.leaf_norms(tree, p)) for p in ORDERS
        ],
        trees,
    )


def exact_norms(leaves, order):
    """The norm of each tree; leaves have the trees along axis 0."""
    entries = [abs(models.exact(x)).reshape(len(x), -1) for x in leaves]
    entries = np.concatenate(entries, axis=1)
    largest = entries.max(axis=1, keepdims=True)
    if order == np.inf:
        return largest[:, 0]
    unit = np.where(largest > 0, largest, 1)
    sums = np.sum((entries / unit) ** order, axis=1)
    return unit[:, 0] * sums ** (1 / order)


def mesh_of(axis_type):
    devices = np.array(jax.devices()).reshape(4, 2)
    return Mesh(devices, AXES, axis_types=(axis_type,) * 2)


def programs(specs):
    """From trees to their norms, one program for each way to use a mesh."""
    specs = [P(None, *spec) for spec in specs]
    sharded = jax.shard_map(
        norms, mesh=mesh_of(AxisType.Auto), in_specs=(specs,), out_specs=P()
    )
    automatic, explicit = jax.jit(norms), jax.jit(norms)

    def on_a_mesh(function, axis_type, trees):
        mesh = mesh_of(axis_type)
        with jax.set_mesh(mesh):
            places = [NamedSharding(mesh, spec) for spec in specs]
            return function(list(map(jax.device_put, trees, places)))

    return {
        "shard_map": jax.jit(sharded),
        "automatic": functools.partial(on_a_mesh, automatic, AxisType.Auto),
        "explicit": functools.partial(on_a_mesh, explicit, AxisType.Explicit),
    }


def check_layout(number, cases):
    dtypes, specs = layout(number)
    rng = np.random.default_rng((number, cases))
    trees = [random_leaves(rng, dtype, cases) for dtype in dtypes]
    for mode, program in programs(specs).items():
        for p, (whole, each) in zip(ORDERS, program(trees), strict=True):
            factor = 4 if p in (2, np.inf) else 8
            expected = exact_norms(trees, p), [exact_norms([x], p) for x in trees]
            try:
                models.assert_close((whole, each), expected, "float32", factor)
            except AssertionError as error:
                error.add_note(f"layout {number}, {mode}, order {p}")
                raise


@pytest.mark.parametrize("number", range(4))
@pytest.mark.slow
def test_random_trees(number):
    check_layout(number, cases=5)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4, 9))
def test_many_random_trees(number):
    check_layout(number, cases=100)
