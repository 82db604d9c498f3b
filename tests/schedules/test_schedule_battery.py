"""The battery: what every public schedule must be able to do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from battery import SCHEDULES as CORE
from battery_compat import SCHEDULES as COMPAT

import stabjax
from stabjax.compat import huggingface

SCHEDULES = [*CORE, *COMPAT]
all_rows = pytest.mark.parametrize("row", SCHEDULES, ids=str)
# Spellings of what has rows of its own: one check by default, the others in CI.
slow_rows = [pytest.param(row, marks=pytest.mark.slow) for row in COMPAT]
rows = pytest.mark.parametrize("row", [*CORE, *slow_rows], ids=str)
# Before, at and after every boundary of every row.
COUNTS = np.arange(20, dtype=np.int32)


def test_every_name_of_compat_has_a_row():
    names = {
        f"compat.{library}.{name}"
        for library in stabjax.compat.__all__
        for name in getattr(stabjax.compat, library).__all__
    }
    # It watches a metric: tests/compat/test_compat_plateau.py.
    names -= {"compat.torch.reduce_lr_on_plateau"}
    of_transformers = set(huggingface._BUILDERS) - {"reduce_lr_on_plateau", "greedy"}
    assert {row.name for row in COMPAT} == names
    assert {row.variant for row in COMPAT} - {""} == of_transformers


def numbers_of(row):
    return {name: jnp.asarray(v, jnp.float32) for name, v in row.numbers.items()}


def curve(make, numbers, counts=COUNTS):
    """The values at all counts, each of which the schedule sees as a scalar."""
    schedule = make(**numbers)
    return jax.vmap(lambda count: jnp.asarray(schedule(count)))(counts)


@functools.cache
def compiled(row_id):
    """The one program of a row that most checks share, and its count of traces."""
    (row,) = (row for row in SCHEDULES if str(row) == row_id)
    traces = []

    def counted(numbers):
        traces.append(row_id)
        return curve(row.make, numbers)

    return jax.jit(counted), traces


def batched(row):
    """For every number three sets of numbers, in each of which it has another value."""
    sets = []
    for name in row.numbers:
        for factor in (0.6, 1.0, 1.4):
            numbers = numbers_of(row)
            sets.append(numbers | {name: numbers[name] * factor})
    return jax.tree.map(lambda *xs: jnp.stack(xs), *sets)


@rows
def test_a_count_gives_a_scalar_of_fixed_dtype(row):
    """Of Python numbers, and of arrays; whatever integer the count is."""

    def value(numbers, count):
        return jnp.asarray(row.make(**numbers)(count))

    of_numbers = functools.partial(value, row.numbers)
    of_arrays = functools.partial(jax.eval_shape, value, numbers_of(row))
    for count in (jnp.int32(3), jnp.uint32(3), jnp.int16(3)):
        for got in (jax.eval_shape(of_numbers, count), of_arrays(count)):
            assert got.shape == () and got.dtype == jnp.float32
    assert of_arrays(3).dtype == jnp.float32


@rows
@pytest.mark.slow
def test_jit_equals_eager(row):
    """Arrays and Python numbers, at one count after another and at all at once."""
    jitted = compiled(str(row))[0](numbers_of(row))
    assert jitted.shape == COUNTS.shape and np.isfinite(jitted).all()
    schedule = row.make(**numbers_of(row))
    eager = [schedule(jnp.int32(count)) for count in COUNTS[::5]]
    np.testing.assert_allclose(jitted[::5], eager, rtol=3e-6, atol=1e-7)
    at_once = row.make(**row.numbers)(jnp.asarray(COUNTS))
    at_once = np.broadcast_to(at_once, COUNTS.shape)  # a constant is a Python number
    np.testing.assert_allclose(jitted, at_once, rtol=3e-6, atol=1e-7)


@all_rows
@pytest.mark.slow
def test_vmap_over_each_number_equals_the_loop(row):
    program, _ = compiled(str(row))
    sets = batched(row)
    many = jax.jit(jax.vmap(functools.partial(curve, row.make)))(sets)
    for i, values in enumerate(many):
        one = program(jax.tree.map(lambda x: x[i], sets))  # noqa: B023
        np.testing.assert_allclose(values, one, rtol=2e-6, atol=1e-7)
    # Every number matters, somewhere.
    for i in range(0, len(many), 3):
        assert np.any(many[i] != many[i + 1]) or np.any(many[i] != many[i + 2])


@rows
@pytest.mark.slow
def test_derivatives_are_finite_at_every_count(row):
    jacobian = jax.jit(jax.jacrev(functools.partial(curve, row.make)))
    some_zero = {k: v * 0 for k, v in numbers_of(row).items()}
    for numbers in (numbers_of(row), some_zero | steps_of(row)):
        slopes = jacobian(numbers)
        for slope in jax.tree.leaves(slopes):
            assert slope.shape[:1] == COUNTS.shape and np.isfinite(slope).all()


def steps_of(row):
    """What must stay positive while all else is zero."""
    keep = ("steps", "boundar", "factor", "first", "second", "power", "exponent", "pct")
    keep += ("period", "timescale", "size", "b2", "convex", "smooth", "norms")
    keep += ("iters", "T_", "_t", "t_", "cycle_", "ratio", "lb", "ub", "learning_rate")
    return {k: v for k, v in numbers_of(row).items() if any(s in k for s in keep)}


@pytest.mark.slow
@rows
def test_derivatives_by_the_count_are_finite(row):
    def slopes(numbers, counts):
        schedule = row.make(**numbers)
        return jax.vmap(jax.grad(lambda t: jnp.asarray(schedule(t), float)))(counts)

    counts = jnp.array([*range(-2, 20), 0.5, 3.7, 1e6], float)
    assert np.isfinite(jax.jit(slopes)(numbers_of(row), counts)).all()


@pytest.mark.slow
@rows
def test_float32_is_close_to_float64(row):
    got = np.asarray(compiled(str(row))[0](numbers_of(row)))
    with jax.enable_x64(True):
        exact = {k: np.asarray(v, np.float64) for k, v in numbers_of(row).items()}
        expected = jax.jit(functools.partial(curve, row.make))(exact)
        assert expected.dtype == np.float64
    np.testing.assert_allclose(got, expected, 0, 2e-5 * np.abs(expected).max())


@rows
def test_one_trace_for_all_numbers(row):
    program, traces = compiled(str(row))
    sets = batched(row)
    for i in range(3):
        program(jax.tree.map(lambda x: x[i], sets))  # noqa: B023
    assert traces == [str(row)]


@rows
@pytest.mark.slow
def test_it_lowers_for_cuda_and_tpu(row):
    program = jax.jit(functools.partial(curve, row.make))
    exported = jax.export.export(program, platforms=("cuda", "tpu"))(numbers_of(row))
    assert exported.platforms == ("cuda", "tpu")
    assert exported.out_avals[0].shape == COUNTS.shape


@rows
@pytest.mark.slow
def test_it_sets_the_rate_of_an_optimizer(row):
    """Plainly, and injected, where the rate can be read from the state."""
    params, grads = jnp.ones(2), jnp.array([1.0, -2.0])
    expected = compiled(str(row))[0](numbers_of(row))[:4]

    @jax.jit
    def rates(numbers):
        schedule = row.make(**numbers)
        plain = optax.sgd(schedule)
        injected = optax.inject_hyperparams(optax.sgd)(learning_rate=schedule)

        def step(states, _):
            first, one = plain.update(grads, states[0], params)
            second, two = injected.update(grads, states[1], params)
            rate = two.hyperparams["learning_rate"]
            return (one, two), (-first[0], -second[0], rate)

        states = plain.init(params), injected.init(params)
        return jax.lax.scan(step, states, length=4)[1]

    for found in rates(numbers_of(row)):
        np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-7)
