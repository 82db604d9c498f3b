"""Schedules against vectors and by hand; pairs, joins and bad input."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curves import COUNTS, curve

import stabjax

VECTORS = json.loads(
    (pathlib.Path(__file__).parents[1] / "vectors" / "optax_schedules.json").read_text()
)
KNOTS = {5: 0.5, 8: 0.1, 12: 4.0}
FROM_VECTORS = {
    "o_const": stabjax.constant_schedule(0.3),
    "o_lin": stabjax.linear_schedule(0.1, 1.0, 7, 3),
    "o_poly": stabjax.polynomial_schedule(1.0, 0.05, 2.5, 8, 2),
    "o_cos": stabjax.cosine_decay_schedule(0.8, 10, 0.1, 1.5),
    "o_exp": stabjax.exponential_decay(0.5, 4, 0.3, 2, end_value=0.05),
    "o_exps": stabjax.exponential_decay(0.5, 4, 0.3, 2, staircase=True),
    "o_expg": stabjax.exponential_decay(0.1, 3, 2.0, end_value=0.5),
    "o_pwc": stabjax.piecewise_constant_schedule(0.8, KNOTS),
    "o_pwil": stabjax.piecewise_interpolate_schedule("linear", 0.8, KNOTS),
    "o_pwic": stabjax.piecewise_interpolate_schedule("cosine", 0.8, KNOTS),
    "o_lin1": stabjax.linear_onecycle_schedule(11, 2.0, 0.3, 0.8, 10.0, 100.0),
    "o_cos1": stabjax.cosine_onecycle_schedule(11, 2.0, 0.3, 10.0, 100.0),
    "o_wcon": stabjax.warmup_constant_schedule(0.1, 0.9, 4),
    "o_wcos": stabjax.warmup_cosine_decay_schedule(0.1, 1.0, 4, 12, 0.05, 1.3),
    "o_wcos0": stabjax.warmup_cosine_decay_schedule(0.1, 1.0, 0, 12, 0.05),
    "o_wexp": stabjax.warmup_exponential_decay_schedule(
        0.0, 1.0, 3, 4, 0.5, transition_begin=2, end_value=0.2
    ),
    "o_sgdr": stabjax.sgdr_schedule(
        dict(
            init_value=init, peak_value=peak, warmup_steps=w, decay_steps=t, end_value=e
        )
        for init, peak, w, t, e in ((0.1, 1.0, 2, 6, 0.05), (0.05, 0.5, 3, 8, 0.01))
    ),
    "o_join": stabjax.join_schedules(
        [
            stabjax.linear_schedule(0.0, 1.0, 4),
            stabjax.constant_schedule(0.7),
            stabjax.exponential_decay(0.5, 2, 0.5),
        ],
        [4, 6],
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name):
    counts, values = (np.array(VECTORS[name][key]) for key in "tv")
    with jax.enable_x64(True):
        compiled = jax.jit(lambda counts: curve(FROM_VECTORS[name], counts))
        got = compiled(counts.astype(np.float64))
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, values, rtol=1e-12, atol=1e-16)


def test_percentages_are_cut_as_python_cuts_them():
    # 0.29 * 100 is 28.99..., 0.57 * 100 is 56.99... in float64.
    schedule = stabjax.linear_onecycle_schedule(100, 1.0, 0.29, 0.57, 10.0)
    values = [float(schedule(count)) for count in (27, 28, 29, 55, 56, 57)]
    assert max(values) == values[1] == 1.0
    assert values[3] > values[4] > values[5] and values[4] == pytest.approx(0.1)


def test_a_constant_is_the_object_itself():
    value = object()
    assert stabjax.constant_schedule(value)(3) is value


def knotted(kind, init_value, pieces):
    """From knot to knot, by hand: the dict of the pieces, in NumPy."""
    x, v = [0], [init_value]
    for boundary, scale in sorted(dict(pieces).items()):
        if boundary == x[-1]:
            v[-1] *= scale
        else:
            x, v = [*x, boundary], [*v, v[-1] * scale]
    x, v = np.array(x), np.array(v)
    i = np.clip(np.searchsorted(x, COUNTS, "right") - 1, 0, len(x) - 2)
    q = np.clip((COUNTS - x[i]) / (x[i + 1] - x[i]), 0, 1)
    q = (1 - np.cos(np.pi * q)) / 2 if kind == "cosine" else q
    return v[i] + (v[i + 1] - v[i]) * q


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_array_percentages_are_cut_in_their_own_precision(kind, steps):
    # 0.58 * 50 is 28.99... in float64, and 29 in float32. Of equal boundaries the later
    # piece replaces the earlier one, as in a dict.
    starts = np.array([0.58, 0.0, 0.01, 0.8, 0.9, 1.0], np.float32)
    if kind == "linear":
        rest, last = (0.8, 10.0, 100.0), [(int(0.8 * steps), 0.1), (steps, 0.01)]
    else:
        rest, last = (10.0, 100.0), [(steps, 0.001)]
    build = getattr(stabjax, f"{kind}_onecycle_schedule")
    got = jax.jit(jax.vmap(lambda start: curve(build(steps, 2.0, start, *rest))))(
        starts
    )
    for values, start in zip(got, starts, strict=True):
        first = (int(start * np.float32(steps)), 10)
        expected = knotted(kind, 0.2, [first, *last])
        np.testing.assert_allclose(values, expected, 1e-6, 2e-7)


# Boundaries and scales as a pair.


@pytest.mark.parametrize("kind", ["constant", "linear"])
def test_a_pair_equals_the_dict(kind):
    def build(given):
        if kind == "constant":
            return stabjax.piecewise_constant_schedule(0.8, given)
        return stabjax.piecewise_interpolate_schedule(kind, 0.8, given)

    pair = [8, 12, 5], [0.125, 4.0, 0.5]
    one = build({5: 0.5, 8: 0.125, 12: 4.0})
    expected = [one(count) for count in range(16)]
    for given in (pair, (jnp.array(pair[0]), np.array(pair[1], np.float32))):
        values = [build(given)(count) for count in range(16)]
        np.testing.assert_array_equal(values, expected)
    arrays = np.array([[8, 12, 5], [10, 14, 7]]), np.array([pair[1]] * 2, np.float32)
    got = jax.jit(jax.vmap(lambda pair: curve(build(pair))))(arrays)
    np.testing.assert_allclose(got[0, :16], expected, 1e-6)
    moved = build({7: 0.5, 10: 0.125, 14: 4.0})
    np.testing.assert_allclose(got[1, :16], [moved(c) for c in range(16)], 1e-6)


def test_a_boundary_twice_in_a_pair_applies_both_scales():
    pair = [4, 4], [0.5, 3.0]
    jump = stabjax.piecewise_constant_schedule(1.0, pair)
    assert [float(jump(count)) for count in (3, 4)] == [1.0, 1.5]
    line = stabjax.piecewise_interpolate_schedule("linear", 1.0, pair)
    assert [float(line(count)) for count in (0, 2, 4)] == [1.0, 0.75, 1.5]


# Joining.


def test_join_with_an_array_of_boundaries():
    schedules = [stabjax.constant_schedule(float(value)) for value in range(3)]

    def values(boundaries):
        return curve(stabjax.join_schedules(schedules, boundaries), COUNTS[:8])

    expected = [0, 0, 1, 1, 1, 2, 2, 2]
    for boundaries in ([2, 5], iter([2, 5]), np.array([2, 5]), jnp.array([2.0, 5.0])):
        np.testing.assert_array_equal(values(boundaries), expected)
    np.testing.assert_array_equal(
        jax.vmap(values)(jnp.array([[2, 5], [0, 0], [1, 1]])),
        [expected, [2] * 8, [0] + [2] * 7],
    )


def test_join_ignores_what_is_too_many():
    up, down = stabjax.linear_schedule(0, 1, 4), stabjax.linear_schedule(1, 0, 4)
    for schedules, boundaries in (([up], [3]), ([up, down], [])):
        joined = stabjax.join_schedules(schedules, boundaries)
        np.testing.assert_array_equal(curve(joined), curve(up))


def test_a_piece_sees_only_counts_of_its_own():
    seen = []

    def piece(count):
        jax.debug.callback(lambda x: seen.append(int(x)), count)
        return jnp.float32(count)

    joined = stabjax.join_schedules([piece, piece], [5])
    values = [float(jax.jit(joined)(count)) for count in (0, 3, 5, 8)]
    jax.effects_barrier()
    assert values == [0, 3, 0, 3]
    assert sorted(seen) == [0, 0, 1, 1, 1, 1, 3, 3]


def test_derivatives_of_pieces_that_have_none_elsewhere():
    def joined(count, scale):
        root = stabjax.join_schedules(
            [lambda t: jnp.sqrt(4 - t) * scale, lambda t: jnp.sqrt(t * scale)], [4]
        )
        return root(count)

    for count in (1.0, 2.0, 6.0, 20.0):
        by_count, by_scale = jax.grad(joined, (0, 1))(count, 2.0)
        assert np.isfinite(by_count) and np.isfinite(by_scale)


def test_pieces_may_mix_dtypes_under_strict_promotion():
    def mixing(count):
        return jnp.ones((), jnp.float32) * jnp.full((), 3, jnp.int32)

    assert float(stabjax.join_schedules([mixing], [])(0)) == 3.0


# Bad input.

COSINE = stabjax.cosine_decay_schedule
WARMUP = stabjax.warmup_cosine_decay_schedule
LINEAR_ONECYCLE = stabjax.linear_onecycle_schedule
COSINE_ONECYCLE = stabjax.cosine_onecycle_schedule
JUMPS = stabjax.piecewise_constant_schedule
KNOTTED = stabjax.piecewise_interpolate_schedule
NAN = float("nan")


@pytest.mark.parametrize(
    "build, arguments, message",
    [
        (COSINE, (1.0, 0), "decay_steps must be > 0, got 0"),
        (COSINE, (1.0, NAN), "decay_steps must be > 0, got nan"),
        (COSINE, (1.0, np.int64(-3)), "decay_steps must be > 0, got -3"),
        (COSINE, (1.0, jnp.float32(-3)), "decay_steps must be > 0, got -3"),
        (WARMUP, (0.0, 1.0, 10, 10), "decay_steps=10 and warmup_steps=10"),
        (WARMUP, (0.0, 1.0, jnp.array(10), 5), "decay_steps=5 and warmup_steps=10"),
        (WARMUP, (0.0, 1.0, NAN, 5), "decay_steps must be greater than warmup_steps"),
        (LINEAR_ONECYCLE, (0, 1.0), "transition_steps must be > 0, got 0"),
        (COSINE_ONECYCLE, (-1, 1.0), "transition_steps must be > 0, got -1"),
        (LINEAR_ONECYCLE, (9, 1.0, 1.5), "pct_start must be in \\[0, 1\\], got 1.5"),
        (LINEAR_ONECYCLE, (9, 1.0, 0.3, -0.1), "pct_final must be in \\[0, 1\\]"),
        (COSINE_ONECYCLE, (9, 1.0, NAN), "pct_start must be in \\[0, 1\\], got nan"),
        (LINEAR_ONECYCLE, (9, 1.0, 0.3, 0.8, 0.0), "^div_factor must be > 0"),
        (COSINE_ONECYCLE, (9, 1.0, 0.3, 5, -1), "final_div_factor must be > 0"),
        (
            JUMPS,
            (1.0, {5: -0.5}),
            "each scale in boundaries_and_scales must be >= 0, got -0.5",
        ),
        (
            JUMPS,
            (1.0, {5: NAN}),
            "each scale in boundaries_and_scales must be >= 0, got nan",
        ),
        (
            KNOTTED,
            ("linear", 1.0, {5: -3}),
            "each scale in boundaries_and_scales must be >= 0, got -3",
        ),
        (KNOTTED, ("linar", 1.0), "'linear' or 'cosine', got 'linar'"),
        (JUMPS, (1.0, ([5, 8], [0.5])), "same number of boundaries"),
        (JUMPS, (1.0, ([[5]], [[0.5]])), "scales, as scalars"),
        (stabjax.sgdr_schedule, ([],), "at least one cycle"),
        (stabjax.join_schedules, ([], []), "at least one schedule"),
    ],
)
def test_a_bad_value_is_refused_by_name(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(*arguments)


@pytest.mark.parametrize(
    "build, arguments, message",
    [
        (stabjax.linear_schedule, ("1e-3", 0.0, 9), "init_value must be a number"),
        (COSINE, (1.0, "100"), "decay_steps must be a number, got '100'"),
        (COSINE, (1.0, None), "decay_steps must be a number, got None"),
        (
            JUMPS,
            (1.0, {5: "0.5"}),
            "each scale in boundaries_and_scales must be a number, got '0.5'",
        ),
        (JUMPS, (1.0, 5), "must be a dict or a pair of sequences, got 5"),
        (JUMPS, (1.0, [5, 0.5]), "must be a dict or a pair of sequences"),
    ],
)
def test_a_bad_type_is_refused_by_name(build, arguments, message):
    with pytest.raises(TypeError, match=message):
        build(*arguments)


@pytest.mark.parametrize(
    "build, arguments",
    [
        (COSINE, (1.0, 0)),
        (lambda *a: COSINE(1.0, *a, exponent=0), (-2,)),
        (WARMUP, (0.0, 1.0, 10, 10)),
        (LINEAR_ONECYCLE, (0, 1.0)),
        (LINEAR_ONECYCLE, (9, 1.0, 1.5)),
        (LINEAR_ONECYCLE, (9, 1.0, 0.3, -0.1)),
        (COSINE_ONECYCLE, (9, 1.0, 0.3, 5, -1)),
        (lambda *a: JUMPS(1.0, ([2, 5], a)), (0.5, -0.5)),
        (lambda *a: KNOTTED("cosine", 1.0, {2: a[0], 5: a[1]}), (0.5, -0.5)),
    ],
)
def test_a_bad_traced_value_gives_nan(build, arguments):
    values = jax.jit(lambda *a: curve(build(*a), COUNTS[:12]))(*map(float, arguments))
    assert np.isnan(values).all()
