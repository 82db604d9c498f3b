"""Sweeps: labels, equality with single trainings, compilations, chunks, divergence."""

import functools
import gc
import io
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stabjax
from stabjax._sweep import program_cache
from stabjax._sweep.chunk_width import auto_width
from stabjax._sweep.factories import route
from stabjax._sweep.program import Program
from stabjax._sweep.settings import Settings
from stabjax.problems import Problem


def square(w, key):
    """Each step of gradient descent with rate r multiplies w by 1 - 2r."""
    del key
    return jnp.sum(w * w)


def noisy(w, key):
    return jnp.sum((w - jax.random.uniform(key, (2,))) ** 2)


def start(key):
    return jnp.array([3.0, -4.0]) + jax.random.uniform(key, (2,))


SHARED = Problem(start, square)
QUADRATIC = Problem(lambda key: jnp.array([3.0, -4.0]), square)
NOISY = Problem(start, noisy, lambda w, key: {"norm": stabjax.global_norm(w)})


def clipped_sgd(rate, max_norm=np.inf):
    clip = stabjax.with_metrics(stabjax.clip_by_global_norm(max_norm), name="clip")
    return optax.chain(clip, optax.sgd(rate))


def sgd(rate):
    return optax.sgd(rate)


RATES = [0.05, 0.1, 0.2, 0.3, 0.45]
SPACE = stabjax.grid(rate=RATES, seed=[4, 1, 2], max_norm=[0.5, np.inf])


def run(space=SPACE, problem=NOISY, make=clipped_sgd, **kwargs):
    return stabjax.sweep(problem, make, space, **{"steps": 10, **kwargs})


@pytest.fixture(scope="module")
def runs():
    with jax.numpy_dtype_promotion("strict"):
        return run(record_every=3)


def test_labels_are_the_axes(runs):
    assert dict(runs.sizes) == {"rate": 5, "seed": 3, "max_norm": 2, "step": 4}
    np.testing.assert_array_equal(runs.rate, RATES)
    np.testing.assert_array_equal(runs.seed, [4, 1, 2])
    np.testing.assert_array_equal(runs.max_norm, [0.5, np.inf])
    np.testing.assert_array_equal(runs.step, [0, 3, 6, 9])
    scalars = ["final_loss", "best_loss", "status", "diverged_at", "norm"]
    traces = ["loss", "clip_grad_norm", "clip_update_norm", "clip_clipped"]
    for name in scalars:
        assert runs[name].dims == ("rate", "seed", "max_norm")
    for name in [*traces, "clip_clip_fraction"]:
        assert runs[name].dims == ("rate", "seed", "max_norm", "step")
    assert len(runs.data_vars) == 10
    assert list(runs.data_vars)[:5] == [*scalars[:4], "loss"]
    assert runs.status.dtype == np.int8
    assert runs.diverged_at.dtype == np.int32
    assert runs.clip_clipped.dtype == bool


def test_every_point_is_the_training_of_its_labels(runs):
    @jax.jit
    def alone(rate, max_norm, key):
        optimizer = clipped_sgd(rate, max_norm)
        return stabjax.train(NOISY, optimizer, key, steps=10, record_every=3)

    for seed, rate, max_norm in ((4, 0.05, 0.5), (1, 0.3, np.inf), (2, 0.45, 0.5)):
        found = runs.sel(seed=seed, rate=rate, max_norm=max_norm)
        result = alone(rate, max_norm, jax.random.key(seed))
        expected = {
            **{name.replace("/", "_"): v for name, v in result.metrics.items()},
            **result.evaluation,
            **result._asdict(),
        }
        for name in runs.data_vars:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


def test_equals_a_plain_loop(runs):
    for seed, rate in ((4, 0.1), (2, 0.3)):
        init_key, step_key = jax.random.split(jax.random.key(seed))
        w, losses = start(init_key), []
        for t in range(10):
            key = jax.random.fold_in(step_key, t)
            losses.append(noisy(w, key))
            w = w - rate * 2 * (w - jax.random.uniform(key, (2,)))
        found = runs.sel(seed=seed, rate=rate, max_norm=np.inf)
        np.testing.assert_allclose(found.loss, losses[::3], rtol=1e-5)
        norm = np.linalg.norm(np.asarray(w))
        np.testing.assert_allclose(found.norm, norm, rtol=1e-5)


def test_trainings_of_a_seed_are_paired(runs):
    first = runs.loss.sel(step=0)
    np.testing.assert_array_equal(first.max(["rate", "max_norm"]), first[0, :, 0])
    np.testing.assert_array_equal(first.min(["rate", "max_norm"]), first[0, :, 0])
    assert len(set(first[0, :, 0].values)) == 3


def test_divergence_is_data_where_the_closed_form_says():
    rates = np.array([0.3, 0.99, 1.01, 1.2, 2.0, 30.0])
    runs = run(stabjax.grid(rate=rates), QUADRATIC, sgd, steps=400)
    growth = np.abs(1 - 2 * rates)
    with np.errstate(divide="ignore"):
        first = np.floor(np.log(1000) / (2 * np.log(growth))) + 1
    np.testing.assert_array_equal(runs.diverged_at, np.where(rates > 1, first, 400))
    np.testing.assert_array_equal(runs.status, rates > 1)
    np.testing.assert_array_equal(np.isinf(runs.final_loss), rates > 1)
    assert np.argmin(runs.final_loss.values) == 0
    assert runs.final_loss.mean() == np.inf
    assert not runs.to_array().isnull().any()


def test_everything_may_diverge():
    problem = replace(SHARED, evaluate=NOISY.evaluate)
    runs = run(stabjax.grid(rate=[5.0, 50.0], seed=range(2)), problem, sgd, steps=60)
    assert (runs.status == 1).all()
    assert (runs.final_loss == np.inf).all()
    assert (runs.norm == np.inf).all()


class Counter:
    """Counts its calls, which happen only while a program is traced."""

    def __init__(self, function):
        functools.update_wrapper(self, function)
        self.function = function
        self.calls = 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.function(*args, **kwargs)


@pytest.fixture
def compilations():
    """The names of what is compiled while the test runs."""
    names = []

    def listen(event, duration, **kwargs):
        del duration
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(kwargs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def test_one_trace_and_a_second_call_compiles_nothing(compilations):
    loss, make = Counter(square), Counter(sgd)
    problem = Problem(QUADRATIC.init, loss)
    space = stabjax.grid(rate=[0.1, 0.2, 0.3], seed=range(2))
    first = run(space, problem, make, chunk_size=2)
    assert (loss.calls, make.calls) == (1, 1)
    assert first.attrs["programs"] == 1
    assert compilations
    compilations.clear()

    other = stabjax.grid(rate=[0.4, 0.5, 0.6], seed=[7, 9])
    second = run(other, problem, make, chunk_size=2)
    again = run(space, problem, make, chunk_size=2)
    assert (loss.calls, make.calls) == (1, 1)
    assert not compilations
    np.testing.assert_allclose(
        second.final_loss[:, 0], 25 * (1 - 2 * other.axes[0].values) ** 20, rtol=1e-4
    )
    np.testing.assert_array_equal(again.final_loss, first.final_loss)

    run(space, problem, make, chunk_size=2, steps=11)
    assert make.calls == 2


def test_a_setting_of_jax_is_a_program_of_its_own():
    make = Counter(sgd)
    space = stabjax.grid(rate=[0.1, 0.2])
    assert run(space, QUADRATIC, make).final_loss.dtype == np.float32
    with jax.enable_x64(True):
        wide = run(space, QUADRATIC, make)
    assert make.calls == 2
    assert wide.final_loss.dtype == np.float64
    np.testing.assert_allclose(wide.final_loss[0], 25 * 0.8**20, rtol=1e-13)


@pytest.mark.slow
def test_programs_are_forgotten_with_the_functions_they_came_from():
    gc.collect()
    before = len(program_cache.remembered)

    def make(rate):
        return optax.sgd(rate)

    problem = Problem(QUADRATIC.init, lambda w, key: jnp.sum(w * w))
    run(stabjax.grid(rate=[0.1]), problem, make)
    assert len(program_cache.remembered) > before
    del make
    gc.collect()
    assert len(program_cache.remembered) == before


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [1, 7, 64])
def test_the_width_of_chunks_changes_only_the_rounding(chunk_size):
    # Ten trials a seed: widths 1 and 7 keep to one seed and pad, 64 mixes all seeds.
    def training(rate, max_norm, seed):
        optimizer = clipped_sgd(rate, max_norm)
        return stabjax.train(SHARED, optimizer, jax.random.key(seed), steps=10)

    runs = run(problem=SHARED, chunk_size=chunk_size)
    assert runs.attrs["chunk_size"] == chunk_size
    points = [jnp.asarray(runs[name].values) for name in ("rate", "max_norm", "seed")]
    for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
        training = jax.vmap(training, axes)
    expected = jax.jit(training)(*points)  # rate, max_norm, seed
    for name in ("final_loss", "best_loss", "diverged_at"):
        found = runs[name].transpose("rate", "max_norm", "seed")
        np.testing.assert_allclose(found, getattr(expected, name), rtol=1e-5)


def test_static_axes_are_programs_of_their_own():
    made = []

    def make(kind, rate, nesterov, width):
        made.append((kind, nesterov, width))
        assert type(width) is int
        return {"sgd": optax.sgd, "slow": lambda r: optax.sgd(r / width)}[kind](rate)

    space = stabjax.grid(
        kind=["sgd", "slow"],
        rate=[0.1, 0.2, 0.3],
        nesterov=[None],
        width=stabjax.static([2, 4]),
    )
    runs = run(space, QUADRATIC, make, steps=3)
    assert runs.attrs["programs"] == len(made) == 4
    assert runs.final_loss.dims == ("kind", "rate", "nesterov", "width")
    assert runs.kind.values.tolist() == ["sgd", "slow"]
    assert runs.nesterov.values.tolist() == ["None"]
    assert runs.width.values.tolist() == [2, 4]
    rate = runs.rate / runs.width.where(runs.kind == "slow", 1)
    expected = (25 * (1 - 2 * rate) ** 6).transpose("kind", "rate", "width")
    np.testing.assert_allclose(runs.final_loss[:, :, 0], expected, rtol=1e-5)


def test_static_values_need_no_hash_and_may_be_functions():
    def make(optimizer, sizes):
        return optimizer(0.1 * len(sizes))

    sizes = stabjax.static([[8], [8, 8]])
    space = stabjax.grid(optimizer=[optax.sgd, clipped_sgd], sizes=sizes, seed=[0, 1])
    runs = run(space, QUADRATIC, make, steps=2)
    assert runs.optimizer.values.tolist() == ["sgd", "clipped_sgd"]
    assert runs["sizes"].values.tolist() == ["[8]", "[8, 8]"]
    np.testing.assert_allclose(
        runs.final_loss[0, :, 0], 25 * np.array([0.8, 0.6]) ** 4, rtol=1e-5
    )


def test_true_and_one_are_not_the_same_static_value():
    seen = []

    def make(flag):
        seen.append(flag)
        return optax.sgd(0.1)

    for flag in (True, 1):
        run(stabjax.grid(flag=stabjax.static([flag])), QUADRATIC, make)
    assert [type(flag) for flag in seen] == [bool, int]


def test_groups_with_different_metrics_give_their_union():
    def make(clip, rate):
        return clipped_sgd(rate, 1.0) if clip else optax.sgd(rate)

    space = stabjax.grid(rate=[0.1, 0.2], clip=[True, False])
    runs = run(space, QUADRATIC, make, record_every=5)
    assert not runs.loss.isnull().any()
    assert runs.clip_grad_norm.sel(clip=False).isnull().all()
    assert runs.clip_clipped.sel(clip=False).isnull().all()
    np.testing.assert_array_equal(runs.clip_clipped.sel(clip=True), 1)


def test_numbers_of_the_problem_are_axes_too():
    def make_problem(sharpness, size=2.0):
        return Problem(
            lambda key: jnp.full(2, size),
            lambda w, key: sharpness * square(w, key),
        )

    space = stabjax.grid(sharpness=[0.5, 1.0, 2.0], rate=[0.1, 0.3])
    runs = run(space, make_problem, sgd, steps=3)
    expected = 8 * runs.sharpness * (1 - 2 * runs.rate * runs.sharpness) ** 6
    np.testing.assert_allclose(runs.final_loss, expected, rtol=1e-5)
    assert runs.attrs["programs"] == 1
    assert runs.attrs["problem"] == "make_problem"


def test_an_axis_may_go_to_both():
    def make_problem(sharpness):
        return Problem(QUADRATIC.init, lambda w, key: sharpness * square(w, key))

    def make(sharpness):
        return optax.sgd(0.25 / sharpness)

    runs = run(stabjax.grid(sharpness=[1.0, 4.0]), make_problem, make, steps=2)
    np.testing.assert_allclose(runs.final_loss, [25 / 16, 100 / 16], rtol=1e-5)


@pytest.mark.slow
def test_trials_that_are_no_grid_lie_along_trial():
    pairs = stabjax.zipped(rate=[0.1, 0.3, 0.45], max_norm=[0.5, np.inf, 1.0])
    runs = run(pairs * stabjax.grid(seed=[4, 2]), record_every=5)
    assert runs.final_loss.dims == ("trial", "seed")
    assert runs.loss.dims == ("trial", "seed", "step")
    assert runs.rate.dims == runs.max_norm.dims == ("trial",)
    np.testing.assert_array_equal(runs.trial, range(3))
    alone = run(stabjax.grid(rate=[0.3], seed=[2])).squeeze()
    np.testing.assert_allclose(runs.final_loss[1, 1], alone.final_loss, rtol=1e-5)
    assert (runs.rate[1], runs.max_norm[1]) == (0.3, np.inf)


def test_summaries_are_variables():
    names = ["convergence_score", "mean_loss"]
    space = stabjax.grid(rate=[0.1, 5.0])
    runs = run(space, QUADRATIC, sgd, summaries=names, target_loss=1.0, evaluations=2)
    assert list(runs.data_vars) == [
        *("final_loss", "best_loss", "mean_loss", "status", "diverged_at"),
        *("target_at", "convergence_score"),
    ]
    np.testing.assert_allclose(runs.mean_loss[0], 25 * np.mean(0.64 ** np.arange(10)))
    np.testing.assert_array_equal(runs.target_at, [8, np.inf])
    np.testing.assert_array_equal(runs.convergence_score > 0, runs.status)


def test_a_space_of_seeds_alone():
    runs = run(stabjax.grid(seed=[3, 0]), SHARED, lambda: optax.sgd(0.1))
    alone = stabjax.train(SHARED, optax.sgd(0.1), jax.random.key(3), steps=10)
    np.testing.assert_allclose(runs.final_loss.sel(seed=3), alone.final_loss, rtol=1e-5)
    assert runs.final_loss.dims == ("seed",)


def test_without_a_seed_it_is_seed_0():
    runs = run(stabjax.grid(rate=[0.1]), SHARED)
    seeded = run(stabjax.grid(rate=[0.1], seed=[0]), SHARED)
    assert runs.final_loss.dims == ("rate",)
    np.testing.assert_array_equal(runs.final_loss, seeded.final_loss[:, 0])


def test_numbers_are_traced_in_the_types_of_the_axes():
    def make(rate, warmup):
        assert (rate.dtype, warmup.dtype) == (jnp.float32, jnp.int32)
        return optax.sgd(rate * warmup.astype(jnp.float32))

    runs = run(stabjax.grid(rate=[0.1], warmup=[1, 2]), QUADRATIC, make, steps=1)
    np.testing.assert_allclose(runs.final_loss, [[16.0, 9.0]], rtol=1e-5)


def test_attributes_are_scalars_and_text(runs):
    attrs = runs.attrs
    assert all(isinstance(value, (int, float, str)) for value in attrs.values())
    assert attrs["problem"] == "Problem"
    assert attrs["optimizer"] == "clipped_sgd"
    assert (attrs["steps"], attrs["record_every"], attrs["trials"]) == (10, 3, 30)
    assert attrs["divergence_factor"] == 1000
    assert (attrs["platform"], attrs["jax"]) == ("cpu", jax.__version__)
    assert attrs["runs_per_second"] > 0


@pytest.mark.parametrize(
    ("parameters", "width"), [(2, 4096), (10, 1024), (100, 128), (2410, 32), (0, 4096)]
)
def test_automatic_widths(parameters, width):
    assert auto_width(parameters, jax.devices()[0]) == width


@pytest.mark.parametrize("memory", [2**20, 2**24, 2**26, 2**29, 2**31])
def test_automatic_widths_fit_into_the_caches(memory):
    width = auto_width(2, jax.devices()[0], memory)
    assert width == max(1, min(2**30 // memory, max(4, 2**27 // memory)))


def test_the_memory_of_a_trial_is_known_before_it_is_compiled():
    def loss(w, key):
        del key
        return jnp.sum(jnp.outer(w, jnp.ones(2**20)) ** 2)

    factories = route(Problem(QUADRATIC.init, loss), sgd, ["rate"])
    numbers = {"rate": np.dtype(np.float32)}
    _, memory, _ = Program(factories, {}, numbers, Settings(10)).shapes()
    assert 2 <= memory / 2**23 <= 20  # a few arrays of eight megabytes, whatever steps


def shown_on_a_terminal(monkeypatch, *args, **kwargs):
    """What a sweep writes to a standard error that says it is a terminal."""
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    run(*args, **kwargs)
    return stream.getvalue()


def test_progress_says_what_is_compiled_and_what_diverged(monkeypatch):
    def make(kind, rate):
        del kind
        return optax.sgd(rate)

    space = stabjax.grid(kind=["a", "b"], rate=[0.1, 5.0])
    shown = shown_on_a_terminal(monkeypatch, space, QUADRATIC, make, steps=20)
    assert "2 programs to compile" in shown
    assert "4/4" in shown
    assert "diverged=50.0%" in shown


def test_no_progress_where_it_is_not_wanted(monkeypatch):
    space = stabjax.grid(rate=[0.1])
    shown = shown_on_a_terminal(monkeypatch, space, QUADRATIC, sgd, progress=False)
    assert shown == ""


def test_no_progress_where_there_is_no_terminal(capfd):
    run(stabjax.grid(rate=[0.1]), QUADRATIC, sgd)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be an integer >= 1, got 0"),
        ({"record_every": 11}, ValueError, "record_every must be .* 10\\], got 11"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be .* got 0"),
        ({"chunk_size": "big"}, TypeError, "chunk_size must be .* got 'big'"),
        ({"divergence_factor": -1.0}, ValueError, "divergence_factor must be"),
        ({"space": {"rate": [0.1]}}, TypeError, "space must be a Space .* got dict"),
        ({"problem": "quadratic"}, TypeError, "problem must be .* got 'quadratic'"),
        ({"make": optax.sgd(0.1)}, TypeError, "make_optimizer must be a function"),
        ({"make": lambda lr: lr}, ValueError, "parameter 'lr' without a default"),
        (
            {"make": lambda ratio: ratio},
            ValueError,
            "axis 'rate' is not used: .*Did you mean ratio\\? make_optimizer has a "
            "parameter 'ratio' without a default, and no axis has that name\\.",
        ),
        (
            {"problem": lambda noise: QUADRATIC, "space": stabjax.grid(nois=[0.1])},
            ValueError,
            "axis 'nois' is not used: .*Did you mean noise\\? problem has a "
            "parameter 'noise' without a default, and no axis has that name\\.",
        ),
        ({"make": lambda: 1}, ValueError, "axis 'rate' is not used"),
        ({"make": lambda rate: rate}, TypeError, "must return an optax.Gradient"),
        ({"problem": lambda: "a"}, TypeError, "problem must return a Problem"),
        (
            {"problem": replace(QUADRATIC, loss=lambda w, key: w)},
            TypeError,
            r"loss must return a floating-point scalar.* shape \(2,\)",
        ),
        (
            {"problem": replace(QUADRATIC, evaluate=lambda w, key: {"rate": w[0]})},
            ValueError,
            "'rate' is the name of both an axis or dimension and a metric",
        ),
        (
            {
                "make": optax.inject_hyperparams(optax.sgd),
                "record_every": 5,
                "space": stabjax.grid(learning_rate=[0.1]),
            },
            ValueError,
            "'learning_rate' is the name of both an axis or dimension and a metric",
        ),
        (
            {"problem": replace(QUADRATIC, evaluate=lambda w, key: {"status": w[0]})},
            ValueError,
            "two results have the name 'status'",
        ),
    ],
)
def test_bad_input(arguments, error, message):
    arguments = {"space": stabjax.grid(rate=[0.1]), "make": sgd, **arguments}
    with pytest.raises(error, match=message):
        run(**arguments)


def width_of(role):
    """A problem that uses the number `width` where no traced one can stand."""
    init, loss = QUADRATIC.init, square
    uses = {
        "shape": lambda w: jnp.ones(w),
        "normal": lambda w: jax.random.normal(jax.random.key(0), (w,)),
        "reshape": lambda w: jnp.ones(12).reshape(w, -1),
        "slice": lambda w: jnp.ones(5)[:w],
        "arange": lambda w: jnp.arange(w, dtype=jnp.float32),
        "branch": lambda w: jnp.ones(3 if w > 2 else 2),
        "loop": lambda w: sum(jnp.ones(2) for _ in range(w)),
        "float": lambda w: jnp.ones(2) * float(w),
        "numpy": lambda w: jnp.ones(2) * float(np.sqrt(w)),
        "list": lambda w: [jnp.ones(2)] * 3 if [5, 6][w - 2] else None,
    }
    if role == "branch in the loss":

        def loss_of(width):
            return lambda w, key: square(w, key) * (1 if width > 2 else 2)

        return lambda width: Problem(init, loss_of(width))
    return lambda width: Problem(
        lambda key: uses[role](width),
        lambda w, key: sum(loss(leaf, key) for leaf in jax.tree.leaves(w)),
    )


@pytest.mark.parametrize(
    "role",
    [
        *("shape", "normal", "reshape", "slice", "arange", "branch", "loop"),
        *("float", "numpy", "list", "branch in the loss"),
    ],
)
@pytest.mark.parametrize("search", [stabjax.sweep, stabjax.successive_halving])
@pytest.mark.slow
def test_a_number_that_must_be_static_is_named(role, search):
    message = (
        r"^axis 'width' must be static if its value determines a shape or a Python "
        r"branch, got traced numbers. Use width=static\(\[2, 3\]\)\.$"
    )
    space = stabjax.grid(rate=[0.1], width=[2, 3])
    with pytest.raises(TypeError, match=message):
        search(width_of(role), sgd, space, steps=2)
    space = stabjax.grid(rate=[0.1], width=stabjax.static([2, 3]))
    assert (search(width_of(role), sgd, space, steps=2).status == 0).all()


def test_two_numbers_that_must_be_static_are_named():
    def make(rate, window, count):
        return optax.sgd(rate if window == count else 0.1)

    space = stabjax.grid(rate=[0.1], window=[1, 2, 3, 4], count=[1])
    message = (
        r"^axes 'window' and 'count' must be static .* "
        r"window=static\(\[1, 2, 3, \.\.\.\]\), count=static\(\[1\]\)\.$"
    )
    with pytest.raises(TypeError, match=message):
        run(space, QUADRATIC, make)


@pytest.mark.usefixtures("standard_promotion")
def test_a_schedule_of_optax_is_said_to_have_one_here():
    def make(warmup):
        return optax.sgd(optax.warmup_cosine_decay_schedule(0.0, 0.1, warmup, 20))

    message = r"'warmup' must be static .* stabjax schedules of the same name accept"
    with pytest.raises(TypeError, match=message):
        run(stabjax.grid(warmup=[2, 3]), QUADRATIC, make)


def test_other_errors_are_the_users_own():
    def make(rate):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(stabjax.grid(rate=[0.1]), QUADRATIC, make)


@pytest.mark.slow
def test_65536_quadratic_trainings_take_about_a_second():
    def make(max_norm, rate):
        return optax.chain(stabjax.clip_by_global_norm(max_norm), optax.sgd(rate))

    space = stabjax.grid(
        max_norm=np.logspace(-2, 2, 64), rate=np.logspace(-3, 1, 64), seed=range(16)
    )
    runs = run(space, SHARED, make, steps=200)
    assert runs.attrs["trials"] == 65536
    assert runs.attrs["seconds"] < 1.0
