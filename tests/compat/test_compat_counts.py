"""Every schedule at every type of count, at its ends, and with wrong arguments."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from battery_compat import SCHEDULES
from hypothesis import given, settings
from hypothesis import strategies as st

from stabjax.compat import timm, torch
from stabjax.compat.huggingface import get_scheduler

pytestmark = pytest.mark.slow  # many rows, in many contexts

rows = pytest.mark.parametrize("row", SCHEDULES, ids=str)
COUNTS = (0, 1, 2, 3, 4, 5, 7, 9, 13, 14, 15, 40)
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def spellings(count):
    """One count as everything that an optimizer or a script may count with."""
    for dtype in INTEGERS:
        yield np.dtype(dtype).type(count)
        yield np.array(count, dtype)
        if not dtype.endswith("64"):
            yield jnp.array(count, dtype)
    yield count
    yield np.float32(count)
    yield jnp.float32(count)
    yield jnp.float16(count)


@rows
def test_a_count_of_any_type_gives_the_same_value(row):
    schedule = row.make(**row.numbers)
    expected = schedule(jnp.int32(7))
    for count in spellings(7):
        found = schedule(count)
        np.testing.assert_allclose(found, expected, 1e-6, err_msg=repr(count))


@rows
def test_compiled_and_mapped_counts_of_any_type_give_the_same_values(row):
    schedule = row.make(**row.numbers)
    values = jax.jit(jax.vmap(lambda count: jnp.asarray(schedule(count))))
    expected = values(jnp.array(COUNTS, jnp.int32))
    for dtype in ("uint8", "int16", "uint32"):
        found = values(jnp.array(COUNTS, dtype))
        np.testing.assert_allclose(found, expected, 1e-6, 1e-9, err_msg=dtype)


@rows
def test_a_count_must_be_a_number(row):
    if row.variant == "constant":
        pytest.skip("it returns the very object it was given")
    schedule = row.make(**row.numbers)
    for count in (None, "3", True, 1j):
        with pytest.raises(TypeError, match="count must be a number, got"):
            schedule(count)


def in_dtype(number, make):
    """What is whole as another type; a tuple as an array or a tuple of them."""
    if isinstance(number, tuple):
        return tuple(in_dtype(n, make) for n in number)
    return make(int(number)) if float(number).is_integer() else number


@rows
def test_arguments_of_any_integer_type_give_the_same_values(row):
    counts = jnp.array([0, 3, 4, 5, 14], jnp.int32)

    def values(make):
        numbers = {k: in_dtype(v, make) for k, v in row.numbers.items()}
        schedule = row.make(**numbers)
        return jax.vmap(lambda count: jnp.asarray(schedule(count)))(counts)

    expected = values(float)
    for make in (int, np.uint8, np.int64, jnp.uint32):
        found = values(make)
        np.testing.assert_allclose(found, expected, 3e-6, 1e-7, err_msg=str(make))


@pytest.mark.slow
@rows
def test_int64_counts_where_they_are_enabled(row):
    with jax.enable_x64(True):
        schedule = row.make(**row.numbers)
        values = jax.jit(jax.vmap(lambda count: jnp.asarray(schedule(count))))
        expected = values(jnp.array(COUNTS, jnp.int32))
        for dtype in ("int64", "uint64", "uint32"):
            found = values(jnp.array(COUNTS, dtype))
            np.testing.assert_allclose(found, expected, 1e-6, 1e-9, err_msg=dtype)


BIG = 4_000_000_000


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda: torch.step_lr(1.0, 3_000_000_000), 0.1),
        (lambda: torch.multi_step_lr(1.0, [3_000_000_000, 5_000_000_000]), 0.1),
        (lambda: torch.constant_lr(1.0, 0.25, 5_000_000_000), 0.25),
        (lambda: torch.linear_lr(1.0, 0.5, 1.0, 10**10), 0.7),
        (lambda: torch.exponential_lr(1.0, 1 - 1e-10), np.exp(-0.4)),
        (lambda: torch.polynomial_lr(1.0, 10**10, 2.0), 0.36),
        (lambda: torch.cosine_annealing_lr(1.0, 10**10), np.cos(0.2 * np.pi) ** 2),
        (
            lambda: torch.cosine_annealing_lr(1.0, 2_000_000_000),
            1.0,
        ),
        (
            lambda: torch.cosine_annealing_warm_restarts(1.0, 3_000_000_000),
            np.cos(np.pi / 6) ** 2,
        ),
        (lambda: torch.cyclic_lr(0.0, 1.0, 5_000_000_000), 0.8),
        (lambda: torch.one_cycle_lr(1.0, 10**10, pct_start=0.4), 1.0),
        (
            lambda: torch.sequential_lr(
                1.0,
                [torch.linear_lr(1.0, 0.5, 1.0, 10), torch.polynomial_lr(1.0, 10**10)],
                [3_000_000_000],
            ),
            0.9,
        ),
        (
            lambda: torch.chained_scheduler(
                1.0, [torch.step_lr(1.0, BIG), torch.polynomial_lr(1.0, 10**10)]
            ),
            0.06,
        ),
        (lambda: torch.lambda_lr(1.0, lambda count: 1 / (1 + count / 4e9)), 0.5),
        (lambda: get_scheduler("linear", 1.0, 0, 10**10), 0.6),
        (lambda: get_scheduler("linear", 1.0, 10**10, 2 * 10**10), 0.4),
        (lambda: get_scheduler("cosine", 1.0, 0, 10**10), np.cos(0.2 * np.pi) ** 2),
        (
            lambda: get_scheduler(
                "cosine_with_restarts", 1.0, 0, 10**10, {"num_cycles": 4}
            ),
            np.cos(0.3 * np.pi) ** 2,
        ),
        (
            lambda: get_scheduler("polynomial", 1.0, 0, 10**10, {"lr_end": 0.5}),
            0.8,
        ),
        (lambda: get_scheduler("inverse_sqrt", 1.0, 10**9), 0.5),
        (
            lambda: get_scheduler(
                "warmup_stable_decay", 1.0, 0, 5 * 10**9, {"num_decay_steps": 2 * 10**9}
            ),
            0.5,
        ),
        (lambda: timm.cosine_lr_scheduler(1.0, 8 * 10**9), 0.5),
        (lambda: timm.step_lr_scheduler(1.0, 3_000_000_000, 0.1), 0.1),
        (lambda: timm.multi_step_lr_scheduler(1.0, [3_000_000_000], 0.1), 0.1),
    ],
)
def test_steps_and_counts_beyond_int32(make, expected):
    schedule = make()
    for count in (BIG, np.int64(BIG), np.uint64(BIG), float(BIG), np.float64(BIG)):
        np.testing.assert_allclose(schedule(count), expected, 1e-5, 1e-6)
    for count in (jnp.uint32(BIG), jnp.float32(BIG)):
        np.testing.assert_allclose(jax.jit(schedule)(count), expected, 1e-5, 1e-6)
    assert np.isfinite(schedule(jnp.int32(2**31 - 1)))
    with jax.enable_x64(True):
        for count in (jnp.int64(BIG), jnp.uint64(BIG), jnp.uint32(BIG)):
            np.testing.assert_allclose(jax.jit(schedule)(count), expected, 1e-6, 1e-9)


def ends_of(length):
    """Schedules of that length: start, end, and where the end is reached."""
    n = length
    hf = {
        "linear": (None, 0.0),
        "cosine": (None, 0.0),
        "cosine_with_restarts": ({"num_cycles": 3}, 0.0),
        "cosine_with_min_lr": ({"min_lr": 0.07}, 0.07),
        "polynomial": ({"lr_end": 0.07, "power": 0.7}, 0.07),
    }
    for name, (own, end) in hf.items():
        yield get_scheduler(name, 0.3, 0, n, own), 0.3, end, n
    for shape in ("linear", "cosine", "1-sqrt"):
        own = {"num_decay_steps": n, "min_lr_ratio": 0.1, "decay_type": shape}
        yield get_scheduler("warmup_stable_decay", 0.3, 0, n, own), 0.3, 0.03, n
    yield torch.linear_lr(0.3, 1.0, 0.1, n), 0.3, 0.03, n
    yield torch.linear_lr(0.3, 1.0, 0.0, n), 0.3, 0.0, n
    yield torch.polynomial_lr(0.3, n, 0.7), 0.3, 0.0, n
    yield torch.cosine_annealing_lr(0.3, n, 0.07), 0.3, 0.07, n
    yield torch.cosine_annealing_lr(0.3, n), 0.3, 0.0, n
    yield timm.cosine_lr_scheduler(0.3, n, 0.07), 0.3, 0.07, n
    yield timm.cosine_lr_scheduler(0.3, n, 0.07, k_decay=0.6), 0.3, 0.07, n
    for strategy in ("cos", "linear"):
        shape = dict(pct_start=0.0, anneal_strategy=strategy, final_div_factor=2.0)
        yield torch.one_cycle_lr(0.3, n + 1, **shape), None, 0.3 / 25 / 2, n
    rise = get_scheduler("constant_with_warmup", 0.3, n)
    yield rise, 0.0, 0.3, n
    late = {"min_lr_rate": 0.1}
    waves = get_scheduler("cosine_warmup_with_min_lr", 0.3, 1, n + 2, late)
    yield waves, 0.3, 0.03, n + 1


def values_of(curves, count):
    return jnp.stack([jnp.asarray(schedule(count)) for schedule, *_ in curves])


def assert_exact(found, start, end, name):
    """The first and the last value, and all in between them."""
    end = np.float32(end)
    start = found[0] if start is None else np.float32(start)
    assert found[0] == start and found[-1] == end, name
    assert np.all((found >= min(start, end)) & (found <= max(start, end))), name


SHORT = (1, 3, 10, 41)
rest = set(range(2, 130, 8)) - set(SHORT)  # the traced test has all lengths
lengths = [*SHORT, *(pytest.param(n, marks=pytest.mark.slow) for n in sorted(rest))]


@pytest.mark.parametrize("length", lengths)
def test_the_end_of_a_curve_is_exact(length):
    """Mapped, scanned and eager, where XLA multiplies by the inverse of the length."""
    curves = list(ends_of(length))
    counts = np.arange(length + 2, dtype=np.int32)

    @jax.jit
    def compiled(counts):
        mapped = jax.vmap(lambda count: values_of(curves, count))(counts)
        step = lambda _, count: (None, values_of(curves, count))  # noqa: E731
        return mapped, jax.lax.scan(step, None, counts)[1]

    mapped, scanned = compiled(counts)
    for index, (schedule, start, end, last) in enumerate(curves):
        for found in (mapped, scanned):
            assert_exact(found[: last + 1, index], start, end, index)
        for count in (last, jnp.int32(last)):
            assert np.float32(schedule(count)) == np.float32(end), index


def test_the_end_of_a_curve_is_exact_for_traced_lengths():
    @jax.jit
    @jax.vmap
    def compiled(length):
        counts = jnp.arange(131, dtype=jnp.int32)
        curves = list(ends_of(length))
        lasts = jnp.stack([jnp.asarray(last) for *_, last in curves])
        return jax.vmap(lambda count: values_of(curves, count))(counts), lasts

    values, lasts = compiled(jnp.arange(1, 130))
    ends = [(start, end) for _, start, end, _ in ends_of(1)]
    for curve, last in zip(np.asarray(values), np.asarray(lasts), strict=True):
        for index, (start, end) in enumerate(ends):
            assert_exact(curve[: last[index] + 1, index], start, end, index)


@settings(deadline=None, max_examples=30)
@given(length=st.integers(1, 10**6), later=st.integers(0, 10**9))
def test_the_linear_decay_of_transformers_is_never_negative(length, later):
    schedule = get_scheduler("linear", 0.3, 0, length)
    values = jax.jit(schedule)(jnp.array([length - 1, length, length + later]))
    assert values[0] > 0 and values[1] == values[2] == 0


OPTIONAL = {
    *("num_warmup_steps", "num_training_steps", "total_steps", "step_size_down"),
    *("min_lr", "min_lr_rate", "warmup_lr_rate", "timescale"),
}


@rows
def test_a_wrong_kind_is_refused_by_name(row):
    """None, text and keys from JSON, for each number of each schedule."""
    for name, number in row.numbers.items():
        if isinstance(number, tuple):
            bad = [None, [None], list(json.loads('{"10": 1}'))]
        else:
            bad = ["10", 1j, True] if name in OPTIONAL else [None, "10", True]
        for value in bad[: 3 if name != "slope" else 0]:
            with pytest.raises(TypeError, match=name) as caught:
                row.make(**dict(row.numbers) | {name: value})
            assert str(caught.value).endswith("."), caught.value
