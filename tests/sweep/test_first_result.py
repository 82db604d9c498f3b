"""What happens before the first chunk runs, once and no more."""

import gc
import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trainings import run

import stabjax
from stabjax._sweep.compiler import compiled_with, no_collection
from stabjax._sweep.program import Program
from stabjax.problems import Problem

STEPS = 37  # as in no other test, whose programs JAX may remember


def make_optimizer(max_norm, rate):
    schedule = stabjax.warmup_cosine_decay_schedule(0.0, rate, 5, STEPS)
    return optax.chain(
        stabjax.clip_by_global_norm(max_norm), optax.sgd(schedule, momentum=0.5)
    )


def test_nothing_is_compiled_to_trace_a_program(caplog):
    """Each operation on constants that JAX runs by itself takes 25 ms to compile."""
    problem = stabjax.problems.ill_conditioned_quadratic(dim=3)
    space = stabjax.grid(max_norm=[0.5, 2.0], rate=[0.1, 0.2], seed=range(3))
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        runs = run(
            problem=problem, make_optimizer=make_optimizer, space=space, steps=STEPS
        )
    assert runs.engine == "lanes"
    lines = [r.getMessage().split() for r in caplog.records]
    compiled = {words[1] for words in lines if words[:1] == ["Compiling"]}
    assert compiled == {"jit(at_all_steps)"}


@pytest.mark.parametrize("devices", [1, 2])
def test_a_chunk_is_traced_once(devices, monkeypatch, tmp_path):
    """A store needs the program for its fingerprint."""
    traced, by_vmap = [], Program._by_vmap

    def counted(self, *given):
        traced.append(self)
        return by_vmap(self, *given)

    monkeypatch.setattr(Program, "_by_vmap", counted)
    problem = Problem(lambda key: jnp.ones(3), lambda w, key: jnp.sum(w**4))
    chosen = jax.local_devices()[:devices]
    runs = run(problem=problem, store=tmp_path, devices=chosen, record_every=5)
    assert runs.engine == "vmap"
    assert len(traced) == 1


def test_an_unknown_option_is_left_out():
    """A later version of XLA may not have it, and may still have the others."""
    lowered = jax.jit(lambda x: jnp.sin(x) * 3).lower(np.float32(1))
    options = {"xla_cpu_no_such_option": 1, "xla_backend_optimization_level": 0}
    assert compiled_with(options, lowered)(np.float32(0)) == 0
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        lowered.compile(dict(options))


def test_other_errors_of_the_compiler_are_raised(monkeypatch):
    class Lowered:
        def compile(self, options=None):
            raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {options}")

    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        compiled_with({"xla_cpu_prefer_vector_width": "512"}, Lowered())


def test_the_garbage_collector_is_paused_for_tracing_alone():
    seen = []

    def loss(w, key):
        seen.append(gc.isenabled())
        return jnp.sum(w**2)

    def fails(w, key):
        raise ArithmeticError

    assert gc.isenabled()
    run(problem=Problem(lambda key: jnp.ones(2), loss))
    assert seen == [False]
    assert gc.isenabled()
    with pytest.raises(ArithmeticError):
        run(problem=Problem(lambda key: jnp.ones(2), fails))
    assert gc.isenabled()
    gc.disable()
    try:
        with no_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.slow
def test_a_sweep_does_not_import_dask():
    """xarray imports Dask before it converts arrays, which takes 0.3 s."""
    code = """
import sys, optax, stabjax
space = stabjax.grid(rate=[0.1, 0.2], clip=[1, 2], seed=range(2))
make = lambda rate, clip: optax.chain(optax.clip(clip), optax.sgd(rate))
chunks = []
runs = stabjax.sweep(
    stabjax.problems.quadratic(),
    make,
    space,
    steps=4,
    record_every=2,
    evaluate_every=2,
    on_chunk=chunks.append,
)
assert runs.loss.dims == ("rate", "clip", "seed", "step")
assert chunks[0].loss.dims == ("trial", "step")
assert "dask" not in sys.modules
"""
    pytest.importorskip("dask")
    subprocess.run([sys.executable, "-c", code], check=True)
