"""Sweeps on one device or more, and what a dry run says of them."""

import concurrent.futures
import functools
import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trainings
from trainings import assert_same_bits, run

import stabjax
from stabjax._sweep import estimate
from stabjax._sweep.program import Program


@pytest.fixture(scope="module")
def alone():
    with jax.numpy_dtype_promotion("strict"):
        return run()


@pytest.mark.parametrize("count", [2, 8])
def test_the_same_bits_on_any_number_of_devices(alone, count):
    runs = run(devices=jax.devices()[:count])
    assert_same_bits(runs, alone)
    assert runs.attrs["chunk_size"] == trainings.WIDTH


def test_chunks_of_several_seeds_on_several_devices():
    # Two trials of a seed: a chunk of four holds two seeds, and the last one is short.
    few = stabjax.grid(rate=[0.1], max_norm=[1.0, np.inf], seed=range(5))
    expected = run(space=few)
    assert_same_bits(run(space=few, devices=jax.devices()[3:5]), expected)


def test_one_trace_for_many_devices():
    calls = itertools.count()

    def make(rate):
        next(calls)
        return optax.sgd(rate)

    rates = stabjax.grid(rate=[0.1, 0.2, 0.3])
    call = {"make_optimizer": make, "chunk_size": 1}
    run(space=rates, devices=None, **call)
    assert next(calls) == 1
    run(space=stabjax.grid(rate=[0.4, 0.5, 0.6]), devices=None, **call)
    assert next(calls) == 2  # by the line before the last alone


def test_the_default_device_is_the_only_one():
    chosen = stabjax._sweep.devices.local_devices
    assert len(chosen(None)) == 8
    with jax.default_device(jax.devices()[3]):
        assert chosen(None) == (jax.devices()[3],)
    assert chosen(jax.devices()[2:4]) == tuple(jax.devices()[2:4])


@pytest.mark.parametrize(
    "devices", [[], 2, "cpu", [0, 1], [*jax.devices()[:1], *jax.devices()[:1]]]
)
def test_bad_devices(devices):
    with pytest.raises(ValueError, match="devices must be None or a list of distinct"):
        run(devices=devices)


def test_a_dry_run_says_what_to_expect_and_keeps_nothing(alone, tmp_path):
    expected = run(dry_run=True, store=tmp_path / "a")
    assert not list(tmp_path.iterdir())
    assert set(expected.variables) == set(alone.variables)
    for name in alone.coords:
        assert expected[name].identical(alone[name])
    assert (expected.status == -1).all()
    assert expected.final_loss.isnull().all()
    attrs = expected.attrs
    assert (attrs["trials"], attrs["programs"], attrs["chunk_size"]) == (60, 1, 4)
    assert 0 < attrs["expected_seconds"] < 10
    assert 0 < attrs["expected_loop_seconds"] < 100
    assert attrs["expected_compile_seconds"] > 0
    assert attrs["expected_device_bytes"] > 1000
    assert attrs["expected_result_bytes"] == sum(v.nbytes for v in alone.values())
    assert all(isinstance(value, (int, float, str)) for value in attrs.values())


def test_a_dry_run_warns_if_a_loop_is_faster(monkeypatch):
    monkeypatch.setattr(estimate, "_loop_seconds", lambda *given: 0.0)
    monkeypatch.setattr(estimate, "_LONG", 0.0)
    with pytest.warns(RuntimeWarning, match=r"slower than a Python loop .* loop 0 s"):
        run(dry_run=True)


def test_a_dry_run_knows_what_is_in_the_store_already(tmp_path):
    run(store=tmp_path)
    assert run(dry_run=True, store=tmp_path).attrs["expected_seconds"] == 0
    (tmp_path / "chunks" / "000004.npz").unlink()  # of part 0 of 2
    due = [
        run(dry_run=True, store=tmp_path, part=part).attrs["expected_seconds"] > 0
        for part in ((1, 2), (0, 2))
    ]
    assert due == [False, True]


def test_a_dry_run_of_a_million_takes_no_memory():
    big = stabjax.grid(rate=np.linspace(0.1, 1.0, 1000), seed=range(1000))
    make = trainings.make_optimizer
    runs = stabjax.sweep(
        trainings.PROBLEM,
        lambda rate: make(rate, 1.0),
        big,
        steps=10,
        dry_run=True,
        devices=jax.devices()[:1],
    )
    assert runs.final_loss.values.strides == (0, 0)
    assert runs.attrs["expected_result_bytes"] == 1000**2 * (4 + 4 + 4 + 4 + 1)


@pytest.mark.parametrize("kind", ["explicit", "auto"])
@pytest.mark.slow
def test_the_mesh_of_a_training_script_does_not_show(alone, kind, tmp_path):
    axis_type = {
        "explicit": jax.sharding.AxisType.Explicit,
        "auto": jax.sharding.AxisType.Auto,
    }[kind]
    mesh = jax.make_mesh((8,), ("d",), axis_types=(axis_type,))
    halve = functools.partial(
        stabjax.successive_halving,
        trainings.PROBLEM,
        trainings.make_optimizer,
        trainings.space(4, 2),
        steps=8,
    )
    expected = halve()
    with jax.set_mesh(mesh):
        assert_same_bits(run(), alone)
        assert_same_bits(run(devices=jax.devices()[:2], store=tmp_path), alone)
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            assert_same_bits(run(executor=executor), alone)
        assert_same_bits(halve(), expected)
        assert run(dry_run=True).attrs["expected_seconds"] > 0
        trial = alone.isel(rate=3, max_norm=1, seed=2)
        again = stabjax.runs.rerun(trainings.PROBLEM, trainings.make_optimizer, trial)
        # The sweep has lanes, which round differently.
        np.testing.assert_allclose(again.final_loss, trial.final_loss, 1e-6)
        assert jax.sharding.get_abstract_mesh() == mesh.abstract_mesh


def held_in_a_closure():
    scale = jnp.full(2, 2.0)
    return lambda w: scale * w


def held_as_a_global():
    space = {"__name__": "script", "jnp": jnp, "scale": jnp.full(2, 2.0)}
    exec("def get(w):\n    return scale * w\ndef outer(w):\n    return get(w)", space)
    return space["outer"]


def held_as_an_attribute():
    class Data:
        def __init__(self):
            self.scale = {"a": [jnp.full(2, 2.0)]}

        def get(self, w):
            return self.scale["a"][0] * w

    return Data().get


def held_by_a_partial():
    return functools.partial(jnp.multiply, jnp.full(2, 2.0))


def held_under_jit():
    scale = jnp.full(2, 2.0)
    return jax.jit(lambda w: scale * w)


def held_as_a_default():
    def get(w, scale=jnp.full(2, 2.0)):  # noqa: B008
        return scale * w

    return get


def held_as_a_key():
    key = jax.random.key(3)
    return lambda w: 2.0 * w + 0.0 * jax.random.normal(key, (2,))


HOLDERS = [
    held_in_a_closure,
    held_as_a_global,
    held_as_an_attribute,
    held_by_a_partial,
    held_under_jit,
    held_as_a_default,
    held_as_a_key,
]


@pytest.mark.parametrize("hold", HOLDERS)
@pytest.mark.parametrize("search", [stabjax.sweep, stabjax.successive_halving])
@pytest.mark.slow
def test_arrays_that_were_made_under_a_mesh(hold, search):
    def call():
        scaled = hold()
        problem = stabjax.problems.Problem(
            lambda key: jnp.array([3.0, -4.0]),
            lambda w, key: jnp.sum(scaled(w) ** 2),
        )
        space = stabjax.grid(rate=[0.01, 0.02, 0.03], seed=range(2))

        def make(rate):
            return optax.sgd(rate * scaled(jnp.ones(2))[0])

        return search(problem, make, space, steps=8)

    expected = call()
    with jax.set_mesh(jax.make_mesh((8,), ("d",))):
        assert_same_bits(call(), expected)


def test_programs_compile_at_the_same_time(monkeypatch):
    """And ahead of the devices: the last one does not wait for the first chunk."""
    compiled, both = Program.compiled, threading.Barrier(2, timeout=60)

    def met(*args):
        both.wait()
        return compiled(*args)

    monkeypatch.setattr(Program, "compiled", met)
    space = stabjax.grid(nesterov=[True, False], rate=[0.01, 0.02])
    runs = stabjax.sweep(
        trainings.PROBLEM,
        lambda nesterov, rate: optax.sgd(rate, 0.9, nesterov=nesterov),
        space,
        steps=2,
    )
    assert (runs.status == 0).all()
