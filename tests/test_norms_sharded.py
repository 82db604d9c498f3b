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


def random_leaf(rng, dtype):
    """Elements of one magnitude, from the whole range of exponents, or of many."""
    limits = jnp.finfo(jnp.dtype(dtype).type(0).real.dtype)
    low, high = np.log2(float(limits.tiny)) + 12, np.log2(float(limits.max)) - 8
    exponents = rng.uniform(low, high, SHAPE if rng.random() < 0.5 else ())
    numbers = rng.choice([-1, 1], SHAPE) * rng.uniform(1, 2, SHAPE) * 2.0**exponents
    if rng.random() < 0.2:
        numbers = numbers * (rng.random(SHAPE) < 0.2)
    turned = numbers * np.exp(1j * rng.uniform(0, 6)) if "complex" in dtype else numbers
    return jnp.asarray(turned, dtype)


def layout(number):
    """The dtypes of a tree, and how its leaves are sharded."""
    rng = np.random.default_rng(number)
    size = rng.integers(1, 6)
    dtypes = rng.choice(DTYPES, size)
    return dtypes, [SPECS[i] for i in rng.integers(0, len(SPECS), size)]


def norms(tree):
    return [(stabjax.global_norm(tree, p), stabjax.leaf_norms(tree, p)) for p in ORDERS]


def mesh_of(axis_type):
    devices = np.array(jax.devices()).reshape(4, 2)
    return Mesh(devices, AXES, axis_types=(axis_type,) * 2)


def programs(specs):
    """From a tree to its norms, one program for each way to use a mesh."""
    sharded = jax.shard_map(
        norms, mesh=mesh_of(AxisType.Auto), in_specs=(specs,), out_specs=P()
    )
    automatic, explicit = jax.jit(norms), jax.jit(norms)

    def on_a_mesh(function, axis_type, tree):
        mesh = mesh_of(axis_type)
        with jax.set_mesh(mesh):
            places = [NamedSharding(mesh, spec) for spec in specs]
            return function(list(map(jax.device_put, tree, places)))

    return {
        "shard_map": jax.jit(sharded),
        "automatic": functools.partial(on_a_mesh, automatic, AxisType.Auto),
        "explicit": functools.partial(on_a_mesh, explicit, AxisType.Explicit),
    }


def check_layout(number, cases):
    dtypes, specs = layout(number)
    compiled = programs(specs)
    for case in range(cases):
        rng = np.random.default_rng((number, case))
        tree = [random_leaf(rng, dtype) for dtype in dtypes]
        for found in compiled.values():
            for p, (whole, each) in zip(ORDERS, found(tree), strict=True):
                factor = 4 if p in (2, np.inf) else 8
                models.assert_close(whole, models.norm(tree, p), "float32", factor)
                expected = [models.norm(leaf, p) for leaf in tree]
                models.assert_close(each, expected, "float32", factor)


@pytest.mark.parametrize("number", range(4))
def test_random_trees(number):
    check_layout(number, cases=5)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4, 24))
def test_many_random_trees(number):
    check_layout(number, cases=100)
