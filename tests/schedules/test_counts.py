"""Counts of every type, at every boundary and far beyond; ends that are exact."""

import inspect
import math
from fractions import Fraction

import cloudpickle
import exact
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from battery import SCHEDULES as CORE
from battery_compat import SCHEDULES as COMPAT
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import stabjax
from stabjax import _types

slow_rows = [pytest.param(row, marks=pytest.mark.slow) for row in COMPAT]
rows = pytest.mark.parametrize("row", [*CORE, *slow_rows], ids=str)
modelled = pytest.mark.parametrize(
    "row", [row for row in CORE if str(row) in exact.MODELS], ids=str
)
# Before, at and after every boundary of every row, and far beyond the last.
COUNTS = [*range(25), 119, 120]
OF_JAX = ("int8", "int16", "int32", "uint8", "uint16", "uint32")
OF_NUMPY = (*OF_JAX, "int64", "uint64")


def numbers_of(row):
    return {
        name: tuple(map(float, value)) if isinstance(value, tuple) else float(value)
        for name, value in row.numbers.items()
    }


def arrays(schedule, counts):
    return np.broadcast_to(np.asarray(schedule(counts), np.float32), len(COUNTS))


def compiled_values(schedule, counts):
    """Whole, and for some types under vmap and in a scan."""

    def value(count):
        return jnp.asarray(schedule(count), jnp.float32)

    yield jnp.broadcast_to(value(counts), counts.shape)
    if counts.dtype.name in ("int32", "uint8", "float32"):
        yield jax.vmap(value)(counts)
        yield jax.lax.scan(lambda _, count: (None, value(count)), None, counts)[1]


@pytest.mark.slow
@rows
def test_every_type_of_count_gives_the_same_bits(row):
    schedule = row.make(**numbers_of(row))
    expected = arrays(schedule, jnp.asarray(COUNTS, jnp.int32))
    for dtype in OF_JAX:
        counts = jnp.asarray(COUNTS, dtype)
        np.testing.assert_array_equal(arrays(schedule, counts), expected, dtype)
    for dtype in OF_NUMPY:
        counts = np.asarray(COUNTS, dtype)
        np.testing.assert_array_equal(arrays(schedule, counts), expected, dtype)


@pytest.mark.slow
@rows
def test_every_type_of_count_gives_the_same_bits_compiled(row):
    schedule = row.make(**numbers_of(row))

    @jax.jit
    def values(counts):
        return {
            name: [*compiled_values(schedule, of_dtype)]
            for name, of_dtype in counts.items()
        }

    counts = {dtype: jnp.asarray(COUNTS, dtype) for dtype in OF_JAX}
    counts["float32"] = jnp.asarray(COUNTS, jnp.float32)
    found = values(counts)
    eager = arrays(schedule, jnp.asarray(COUNTS, jnp.int32))
    for dtype, ways in found.items():
        for way in ways:
            np.testing.assert_allclose(way, eager, 3e-6, 1e-7, err_msg=dtype)


@pytest.mark.slow
@rows
def test_scalars_of_every_kind_are_counts(row):
    schedule = row.make(**numbers_of(row))
    expected = np.float32(schedule(jnp.int32(5)))
    kinds = [5, 5.0, *(np.dtype(d).type(5) for d in (*OF_NUMPY, "float32", "float64"))]
    kinds += [np.asarray(5, d) for d in OF_NUMPY] + [jnp.uint32(5), jnp.uint8(5)]
    kinds += [nnx.Variable(jnp.uint32(5))]
    for count in kinds:
        np.testing.assert_allclose(np.float32(schedule(count)), expected, 2e-6)


@pytest.mark.parametrize(
    "row", [r for r in CORE if r.name != "constant_schedule"], ids=str
)
def test_what_is_not_a_number_is_not_a_count(row):
    schedule = row.make(**numbers_of(row))
    for count in (True, np.True_, jnp.asarray(True), "3", None, 1j):
        with pytest.raises(TypeError, match="count must be a number, got"):
            schedule(count)


def test_the_counter_of_nnx():
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    rate = stabjax.warmup_cosine_decay_schedule(0.0, 1.0, 10, 100)
    optimizer = nnx.Optimizer(model, stabjax.clip(1.0), wrt=nnx.Param)
    for _ in range(5):
        grads = nnx.grad(lambda m: m(jnp.ones((1, 2))).sum())(model)
        optimizer.update(model, grads)
    assert optimizer.step[...].dtype == jnp.uint32
    assert float(rate(optimizer.step[...])) == float(rate(optimizer.step)) == 0.5
    assert float(jax.jit(rate)(optimizer.step[...])) == 0.5


# Against fractions and float64.


def exactly(row, count):
    numbers = {
        name: tuple(map(fraction, value))
        if isinstance(value, tuple)
        else fraction(value)
        for name, value in row.numbers.items()
    }
    return float(exact.MODELS[str(row)](**numbers, t=Fraction(count)))


def fraction(number):
    return Fraction(str(number))


@modelled
@pytest.mark.slow
def test_values_are_those_of_exact_arithmetic(row):
    schedule = row.make(**numbers_of(row))
    expected = np.array([exactly(row, count) for count in COUNTS])
    scale = np.abs(expected).max()
    counts = jnp.asarray(COUNTS, jnp.int32)
    for values in (arrays(schedule, counts), arrays(jax.jit(schedule), counts)):
        np.testing.assert_allclose(values, expected, 2e-6, 1e-6 * scale)
        # Exact where the curve starts, where it stays, and never outside of its range.
        if "exponential_warmup" not in row.name:  # whose start is on the way
            assert values[0] == np.float32(expected[0])
        assert values.min() >= np.float32(expected.min()) * (1 - 3e-7)
        assert values.max() <= np.float32(expected.max()) * (1 + 3e-7)
        if expected[-1] == expected[-2]:
            stays = expected == expected[-1]
            assert (values[stays] == np.float32(expected[-1])).all()


# Each with its length, and the value at its end.
ENDING = {
    "linear": lambda n, end: stabjax.linear_schedule(1.0, end, n),
    "polynomial": lambda n, end: stabjax.polynomial_schedule(1.0, end, 0.5, n),
    "cosine": lambda n, end: stabjax.cosine_decay_schedule(1.0, n, end),
    "rex": lambda n, end: stabjax.rex_schedule(1.0, n, end),
    "warmup_cosine": lambda n, end: stabjax.warmup_cosine_decay_schedule(
        0.0, 1.0, n - 1, n, end
    ),
    "warmup_cosine_late": lambda n, end: stabjax.warmup_cosine_decay_schedule(
        1.0, 0.9, 1, n + 1, end
    ),
    **{
        f"wsd-{shape}": lambda n, end, shape=shape: stabjax.wsd_schedule(
            1.0, 0, 0, n, end_value=end, shape=shape
        )
        for shape in ("linear", "1-sqrt", "cosine", "square", "mirror-cosine")
    },
    "interpolate": lambda n, end: stabjax.piecewise_interpolate_schedule(
        "linear", 1.0, ([n], [end])
    ),
    "huggingface": lambda n, end: (
        stabjax.multiply_schedules(
            [stabjax.compat.huggingface.get_scheduler("linear", 1.0, 0, n)]
        )
        if end == 0
        else stabjax.constant_schedule(end)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENDING)
@settings(max_examples=20, deadline=None)
@given(
    steps=st.integers(1, 400) | st.integers(1, 2**31 - 3),
    end=st.sampled_from([0.0, 0.1, 0.05, 1e-8]) | st.floats(0, 0.5, width=32),
)
def test_curves_end_exactly_and_stay_in_range(kind, steps, end):
    schedule = ENDING[kind](steps, end)
    last = steps + (kind == "warmup_cosine_late")
    near = [0, 1, last // 2, last - 1, last, last + 1, 10 * last]
    counts = [min(max(count, 0), 2**31 - 1) for count in near]
    fused = jax.jit(lambda counts: (schedule(counts), 3.0 * schedule(counts) + 1.0))
    for values in (
        jnp.asarray(schedule(jnp.asarray(counts, jnp.int32))),
        fused(jnp.asarray(counts, jnp.int32))[0],
        jnp.stack([jnp.asarray(schedule(count)) for count in counts]),
    ):
        values = np.broadcast_to(np.asarray(values), len(counts))
        assert (values[4:] == np.float32(end)).all(), values
        assert (values >= min(np.float32(end), 0 if "warmup" in kind else 1)).all()
        assert (values <= 1).all(), values


@pytest.mark.parametrize("kind", ENDING)
@pytest.mark.slow
def test_steps_may_be_arrays_of_any_integer_type(kind):
    counts = np.arange(24, dtype=np.int32)
    expected = np.asarray(ENDING[kind](10, 0.0)(jnp.asarray(counts)))
    for ten in (
        jnp.uint32(10),
        np.uint32(10),
        np.uint8(10),
        jnp.int16(10),
        np.int64(10),
    ):
        found = ENDING[kind](ten, 0.0)(jnp.asarray(counts))
        np.testing.assert_allclose(found, expected, 2e-6, 1e-7)
    if kind != "huggingface":  # its number of steps is compared in Python
        traced = jax.jit(lambda n: ENDING[kind](n, 0.0)(jnp.asarray(counts)))
        for ten in (jnp.uint32(10), jnp.uint8(10), jnp.int16(10)):
            np.testing.assert_allclose(traced(ten), expected, 2e-6, 2e-7)


BILLION = 10**9
LONG = {
    "linear": (stabjax.linear_schedule(1.0, 0.0, 10 * BILLION), 0.6),
    "cosine": (
        stabjax.cosine_decay_schedule(1.0, 10 * BILLION),
        math.cos(0.2 * math.pi) ** 2,
    ),
    "inverse_sqrt": (stabjax.inverse_sqrt_schedule(1.0, 1000.0), 0.0005),
    "wsd": (stabjax.wsd_schedule(1.0, 1000, 3 * BILLION, 2 * BILLION), 0.5),
    "staircase": (
        stabjax.exponential_decay(1.0, 3 * BILLION, 0.1, staircase=True),
        0.1,
    ),
    "jumps": (stabjax.piecewise_constant_schedule(1.0, {3 * BILLION: 0.1}), 0.1),
    "joined": (
        stabjax.join_schedules(
            [stabjax.constant_schedule(1.0), stabjax.constant_schedule(0.25)],
            [3 * BILLION],
        ),
        0.25,
    ),
    "cyclic": (stabjax.cyclic_schedule(0.0, 1.0, BILLION, 2 * BILLION), 1.0),
    "restarts": (stabjax.cosine_restarts_schedule(1.0, 4 * BILLION), 1.0),
    "onecycle": (stabjax.linear_onecycle_schedule(10 * BILLION, 1.0, 0.4), 1.0),
    "torch_step": (stabjax.compat.torch.step_lr(1.0, 3 * BILLION), 0.1),
    "torch_cosine": (
        stabjax.compat.torch.cosine_annealing_lr(1.0, 10 * BILLION),
        math.cos(0.2 * math.pi) ** 2,
    ),
}


@pytest.mark.parametrize("kind", LONG)
def test_counts_beyond_int32_count_tokens(kind):
    schedule, expected = LONG[kind]
    kinds = [4 * BILLION, 4.0 * BILLION, np.int64(4 * BILLION), np.uint32(4 * BILLION)]
    kinds += [jnp.uint32(4 * BILLION), np.asarray(4 * BILLION)]
    for count in kinds:
        assert float(schedule(count)) == pytest.approx(expected, rel=2e-6)
    assert float(jax.jit(schedule)(jnp.uint32(4 * BILLION))) == pytest.approx(
        expected, rel=1e-5, abs=1e-6
    )
    many = np.array([4 * BILLION, 4 * BILLION])
    np.testing.assert_allclose(np.broadcast_to(schedule(many), 2), expected, 2e-6)


@pytest.mark.parametrize("count", [2**24, 2 * BILLION, 3 * BILLION])
def test_jumps_stand_at_their_step_also_far_out(count):
    for schedule in (
        stabjax.piecewise_constant_schedule(1.0, {count: 0.5}),
        stabjax.exponential_decay(1.0, count, 0.5, staircase=True),
        stabjax.join_schedules([lambda _: 1.0, lambda _: 0.5], [count]),
    ):
        assert float(schedule(count - 1)) == 1.0
        assert float(schedule(count)) == 0.5
        if count < 2**31:
            assert float(jax.jit(schedule)(jnp.int32(count - 1))) == 1.0
            assert float(jax.jit(schedule)(jnp.int32(count))) == 0.5


def test_half_precision_numbers_are_computed_in_float32():
    for dtype in (jnp.bfloat16, jnp.float16):
        peak = jnp.asarray(1.0, dtype)
        schedule = stabjax.warmup_cosine_decay_schedule(0.0, peak, 100, 1000)
        plain = stabjax.warmup_cosine_decay_schedule(0.0, 1.0, 100, 1000)
        counts = jnp.arange(1001)
        np.testing.assert_allclose(schedule(counts), plain(counts), 1e-6, 1e-7)


# Arguments of the wrong kind, for every argument of every builder.

BUILDERS = [
    getattr(stabjax, name)
    for name in stabjax.__all__
    if (name.endswith("_schedule") or name == "exponential_decay")
    and name != "constant_schedule"
]


def numeric_arguments(build):
    for name, parameter in inspect.signature(build).parameters.items():
        if parameter.annotation in (
            _types.Number,
            _types.Number | None,
        ):
            yield name


@pytest.mark.parametrize("build", BUILDERS, ids=lambda b: b.__name__)
def test_a_number_of_the_wrong_kind_is_named(build):
    fitting = {
        name: 4 if name.endswith(("steps", "period")) else 0.9
        for name, p in inspect.signature(build).parameters.items()
        if p.default is p.empty
    } | {"schedule": lambda count: 1.0, "gradient_norms": [1.0, 2.0]}
    known = inspect.signature(build).parameters
    fitting = {name: value for name, value in fitting.items() if name in known}
    if "decay_steps" in fitting and "warmup_steps" in fitting:
        fitting["decay_steps"] = 8
    for name in numeric_arguments(build):
        optional = known[name].default is None
        for wrong in ("0.5", True, 1j, object(), *([] if optional else [None])):
            with pytest.raises(TypeError, match=f"{name} must be a number, got"):
                build(**fitting | {name: wrong})


def test_boundaries_from_json_are_refused_by_name():
    message = "each boundary in boundaries_and_scales must be a number, got '10'"
    with pytest.raises(TypeError, match=message):
        stabjax.piecewise_constant_schedule(1.0, {"10": 0.5})
    one = stabjax.constant_schedule(1.0)
    with pytest.raises(TypeError, match="each boundary must be a number, got '10'"):
        stabjax.join_schedules([one, one], ["10"])


def test_unsorted_boundaries_are_refused():
    one = stabjax.constant_schedule(1.0)
    with pytest.raises(ValueError, match=r"ascending order, got \[5, 3\]"):
        stabjax.join_schedules([one, one, one], [5, 3])
    with pytest.raises(ValueError, match="ascending order"):
        stabjax.join_schedules([one, one, one], jnp.array([5, 3]))


@pytest.mark.slow
@rows
def test_every_schedule_can_be_pickled(row):
    schedule = row.make(**numbers_of(row))
    again = cloudpickle.loads(cloudpickle.dumps(schedule))
    counts = jnp.asarray(COUNTS, jnp.int32)
    np.testing.assert_array_equal(arrays(again, counts), arrays(schedule, counts))


def test_the_count_at_which_optax_stops_counting():
    """2**31 - 1, where its counters saturate, from wherever it is read."""
    last = 2**31 - 1
    shifted = stabjax.shift_schedule(stabjax.inverse_sqrt_schedule(1.0, 1000.0), 5)
    for schedule in (
        stabjax.radam_warmup_schedule(0.999),
        stabjax.noam_schedule(64, 10),
        stabjax.exponential_warmup_schedule(1.0, 100.0),
        stabjax.untuned_linear_warmup_schedule(0.999),
        stabjax.untuned_exponential_warmup_schedule(0.999),
        shifted,
    ):
        expected = float(schedule(jnp.int32(last)))
        for count in (last, np.int32(last), np.int64(last), float(last)):
            assert float(schedule(count)) == pytest.approx(expected, rel=1e-6)


def test_a_nan_count_shows():
    for schedule in (
        stabjax.power_schedule(0.3, 1.0, -0.5),
        stabjax.linear_schedule(1.0, 0.0, 10),
        stabjax.wsd_schedule(1.0, 2, 3, 4),
    ):
        assert np.isnan(float(schedule(jnp.nan)))
