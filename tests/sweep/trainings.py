"""A sweep that other processes can import: small, noisy, with some divergence."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

import stabjax
from stabjax.problems import Problem

STEPS, WIDTH = 20, 4


def start(key):
    return jnp.array([3.0, -4.0]) + jax.random.uniform(key, (2,))


def noisy(w, key):
    return jnp.sum((w - jax.random.uniform(key, (2,))) ** 2)


def size(w, key):
    del key
    return {"size": jnp.max(jnp.abs(w))}


PROBLEM = Problem(start, noisy, size)
WITHOUT_EVALUATION = Problem(start, noisy)


def make_optimizer(rate, max_norm):
    clip = stabjax.with_metrics(stabjax.clip_by_global_norm(max_norm), name="clip")
    return optax.chain(clip, optax.sgd(rate))


def space(rates=10, seeds=3):
    return stabjax.grid(
        rate=np.linspace(0.01, 1.2, rates), max_norm=[1.0, np.inf], seed=range(seeds)
    )


def run(**kwargs):
    """On one device, unless it is said otherwise: each number compiles for itself."""
    arguments = {"steps": STEPS, "chunk_size": WIDTH, **kwargs}
    if "executor" not in arguments:
        arguments.setdefault("devices", jax.local_devices()[:1])
    problem = arguments.pop("problem", PROBLEM)
    make = arguments.pop("make_optimizer", make_optimizer)
    return stabjax.sweep(problem, make, arguments.pop("space", space()), **arguments)


def chunk_files(store):
    """The chunks in a store, and what would change if one of them were written anew."""
    found = sorted((pathlib.Path(store) / "chunks").glob("[0-9]*.npz"))
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in found}


def assert_same_bits(found, expected):
    assert set(found.variables) == set(expected.variables)
    for name in expected.variables:
        assert found[name].dims == expected[name].dims
        assert found[name].dtype == expected[name].dtype, name
        assert found[name].values.tobytes() == expected[name].values.tobytes(), name
