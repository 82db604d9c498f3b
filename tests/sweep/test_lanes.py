"""Lanes: the same results as vmap, the same bits at any width, one kernel for a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import pallas

import stabjax
from stabjax._catalogue import CLIPPINGS, PROBLEMS
from stabjax._sweep import lanes
from stabjax._sweep.program import variables_of
from stabjax._train.state import Rules
from stabjax._train.trial import training
from stabjax.problems import Problem

pytestmark = pytest.mark.usefixtures("standard_promotion")  # for Optax's Adam
STEPS = 30
RESULTS = ("final_loss", "best_loss", "status", "diverged_at")
RATES, NORMS = np.logspace(-3, 0.5, 5), (0.1, 1.0, np.inf)
SMALL = {"rate": np.logspace(-3, -1, 3), "max_norm": NORMS}  # no chaos
SMALL_SPACE = stabjax.grid(**SMALL, seed=range(2))
SPACE = stabjax.grid(rate=RATES, max_norm=NORMS, seed=range(2))
QUADRATIC = stabjax.problems.quadratic()


def clipped(optimizer=optax.sgd):
    def make(rate, max_norm):
        schedule = stabjax.warmup_cosine_decay_schedule(0.0, rate, 5, STEPS)
        return optax.chain(stabjax.clip_by_global_norm(max_norm), optimizer(schedule))

    return make


def by_vmap(problem, make, runs):
    """The results of `train` under `vmap` at all points of a sweep."""

    def train(rate, max_norm, seed):
        key = jax.random.key(seed)
        return stabjax.train(problem, make(rate, max_norm), key, steps=STEPS)

    grids = np.meshgrid(*(runs[name] for name in runs.status.dims), indexing="ij")
    trained = jax.jit(jax.vmap(train))(*(jnp.asarray(g.ravel()) for g in grids))
    return {name: getattr(trained, name).reshape(grids[0].shape) for name in RESULTS}


def check(problem, make, space=SPACE, **kwargs):
    """A sweep agrees with `train`; returns its engine."""
    runs = stabjax.sweep(problem, make, space, steps=STEPS, progress=False, **kwargs)
    if runs.engine == "lanes" or kwargs:
        for name, expected in by_vmap(problem, make, runs).items():
            # Losses next to the optimum are what rounding leaves of larger numbers.
            np.testing.assert_allclose(runs[name], expected, 1e-3, 1e-6, err_msg=name)
    return runs.engine


def chunk_for(platform, own=("rate", "max_norm"), problem=QUADRATIC, make=None):
    values = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in own}
    values["seed"] = jax.ShapeDtypeStruct((), jnp.int32)
    parts = []

    def trial(values):
        optimizer = (make or clipped())(values["rate"], values["max_norm"])
        run = training(problem, optimizer, jax.random.key(values["seed"]), Rules())
        results, begun, programs = lanes.trained(run, variables_of, STEPS)
        parts.append(programs)
        return results, begun

    run = lanes.run_of(values, jax.jit(trial).trace(values), parts[0])
    return lanes.chunk_of(run, own, STEPS, platform)


def inputs():
    grids = np.meshgrid(RATES, NORMS, indexing="ij")
    rate, max_norm = (jnp.asarray(grid.ravel(), jnp.float32) for grid in grids)
    return {"seed": jnp.int32(3)}, {"rate": rate, "max_norm": max_norm}


@pytest.mark.parametrize("optimizer", [optax.sgd, optax.adamw])
def test_both_engines_agree(optimizer):
    assert check(QUADRATIC, clipped(optimizer)) == "lanes"


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_both_engines_agree_on_every_problem(name):
    problem = PROBLEMS[name]()
    shapes = jax.eval_shape(problem.init, jax.random.key(0))
    if sum(leaf.size for leaf in jax.tree.leaves(shapes)) > lanes.LARGEST:
        pytest.skip("a network")
    check(problem, clipped(), stabjax.grid(**SMALL, seed=[3]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adagc", "clip", "clip_update_norm", "zclip"])
def test_both_engines_agree_on_clippings(name):
    clipping = CLIPPINGS[name]
    value = np.mean(clipping.range) if clipping.range else 1.0

    def make(rate, max_norm):
        del max_norm
        parts = clipping.make(value), optax.sgd(rate)
        return optax.chain(*(parts[::-1] if clipping.after else parts))

    check(QUADRATIC, make)


def test_noise_of_the_optimizer():
    def make(rate, max_norm):
        noise = optax.add_noise(0.1, 0.5, jax.random.key(0))
        return optax.chain(
            stabjax.clip_by_global_norm(max_norm), noise, optax.sgd(rate)
        )

    assert check(QUADRATIC, make, stabjax.grid(**SMALL, seed=[3])) == "lanes"


@pytest.mark.slow
def test_arctan():
    # jaxlib 0.10.2 computes other values with 512-bit vectors.
    problem = Problem(QUADRATIC.init, lambda w, key: jnp.sum(jnp.arctan(w) ** 2))
    assert check(problem, clipped()) == "lanes"
    assert check(problem, clipped(), record_every=10) == "vmap"


@pytest.mark.slow
def test_a_trial_has_the_same_bits_in_any_chunk():
    def swept(width, seeds):
        space = stabjax.grid(rate=RATES, max_norm=NORMS, seed=seeds)
        runs = stabjax.sweep(
            QUADRATIC, clipped(), space, steps=STEPS, chunk_size=width, progress=False
        )
        assert runs.engine == "lanes"
        return runs.sel(seed=[3, 1])

    whole = swept(600, range(20))  # more than a block
    for width, seeds in ((1, (1, 3)), (7, (3, 1)), (64, (3, 2, 1))):
        for name in RESULTS:
            np.testing.assert_array_equal(whole[name], swept(width, seeds)[name])


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
def test_a_gpu_gets_one_kernel():
    traced = jax.jit(chunk_for("gpu")).trace(*inputs())
    try:
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    except RuntimeError as error:  # JAX 0.12 asks Triton for a device
        pytest.skip(str(error))
    assert text.count("xla.gpu.triton") == 1
    assert "stablehlo.while" not in text.split("xla.gpu.triton")[1]


def test_the_kernel_computes_what_the_cpu_does(monkeypatch):
    interpreted = functools.partial(pallas.pallas_call, interpret=True)

    def call(*args, compiler_params, **kwargs):
        del compiler_params
        return interpreted(*args, **kwargs)

    monkeypatch.setattr(pallas, "pallas_call", call)
    found = jax.jit(chunk_for("gpu"))(*inputs())
    expected = jax.jit(chunk_for("cpu"))(*inputs())
    for name in RESULTS:
        np.testing.assert_allclose(found[name], expected[name], 1e-5, err_msg=name)


def noisy(w, key):
    return jnp.sum((w - jax.random.normal(key, w.shape)) ** 2)


def looped(w, key):
    return jax.lax.fori_loop(0, 3, lambda _, x: x + jnp.sum(w * w), 0.0)


def sorted_norm(w, key):
    return jnp.sum(jnp.sort(w * w)[:1] + w * w)


def exponents(w, key):
    exponent = jax.lax.bitcast_convert_type(w, np.int32) >> 23
    return jnp.sum(w * w + exponent)


def byte_by_byte(w, key):
    return jnp.sum(w * w) + jnp.sum(jax.lax.bitcast_convert_type(w, np.uint8)) / 1e3


@pytest.mark.parametrize(
    ("loss", "seeds", "engine"),
    [
        (exponents, [5], "lanes"),
        (byte_by_byte, [5], "vmap"),
        (noisy, [5], "lanes"),  # of one seed: drawn once for all trials
        (noisy, [5, 6], "vmap"),
        (looped, [5], "vmap"),
        (sorted_norm, [5], "vmap"),
    ],
)
@pytest.mark.slow
def test_what_lanes_cannot_express_runs_under_vmap(loss, seeds, engine):
    problem = Problem(QUADRATIC.init, loss)
    space = stabjax.grid(rate=[0.01, 0.1], max_norm=[1.0], seed=seeds)
    runs = stabjax.sweep(problem, clipped(), space, steps=STEPS, progress=False)
    assert runs.engine == engine
    for name, expected in by_vmap(problem, clipped(), runs).items():
        np.testing.assert_allclose(runs[name], expected, 1e-4, err_msg=name)


def ignored(w, key):
    """XLA finds out that `w[1]` does not matter, after JAX has passed it on."""
    return w[0] ** 2 + jnp.where((w[1] > 0) & (w[1] < 0), 1.0, 0.0)


def test_xla_may_ignore_arguments():
    def make(rate, max_norm):
        clip = stabjax.with_metrics(stabjax.clip_by_global_norm(max_norm), name="clip")
        return optax.chain(clip, optax.sgd(rate))

    assert check(Problem(QUADRATIC.init, ignored), make) == "lanes"


def old_noise(w, key):
    """Random numbers that depend on a setting at the time of tracing."""
    with jax.threefry_partitionable(False):
        return jnp.sum((w - jax.random.normal(jax.random.key(3), (2,))) ** 2)


def test_settings_of_operations_stay_the_same():
    assert check(Problem(QUADRATIC.init, old_noise), clipped(), SMALL_SPACE) == "lanes"


def test_long_tables_of_constants():
    def make(rate):
        return optax.sgd(stabjax.warmup_cosine_decay_schedule(0.0, rate, 50, 9000))

    space = stabjax.grid(rate=[1e-6, 1e-5])
    runs = stabjax.sweep(QUADRATIC, make, space, steps=9000, progress=False)
    assert runs.engine == "lanes"
    # The rates add up to 4500 peaks, and each step multiplies the loss by (1 - 2 r)^2.
    start = QUADRATIC.loss(QUADRATIC.init(jax.random.split(jax.random.key(0))[0]), None)
    expected = float(start) * np.exp(-4 * 4500 * runs.rate.values)
    np.testing.assert_allclose(runs.final_loss, expected, 1e-2)


@pytest.mark.slow
def test_a_store_keeps_its_engine(tmp_path):
    def swept(**changes):
        given = {"steps": STEPS, "store": tmp_path / "runs", "progress": False}
        return stabjax.sweep(QUADRATIC, clipped(), SPACE, **{**given, **changes})

    first = swept(part=(0, 2), chunk_size=4)
    assert first.engine == swept().engine == stabjax.runs.load(tmp_path / "runs").engine


@pytest.mark.slow
def test_what_follows_from_constants_is_compiled_as_one_program():
    """JAX would otherwise compile each of its operations: seven for a schedule."""
    jax.clear_caches()
    compiled = []

    def listen(event, seconds, **about):
        del seconds, about
        compiled.extend([event] if event.endswith("backend_compile_duration") else [])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        chunk_for("cpu")
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert 1 <= len(compiled) <= 3
