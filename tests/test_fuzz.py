"""Norms and clipping for arrays of any dtype and magnitude, against long doubles.

The default run checks thousands of arrays, the slow one a million. The environment
variable `STABJAX_FUZZ` sets another number of arrays for the slow run.
"""

import os

import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest

import stabjax

ORDERS = (1, 1.5, 2, 3, np.inf)
ROWS, LONGEST = 4000, 17
LONG = int(os.environ.get("STABJAX_FUZZ", 1_000_000))


def numbers(rng, dtype, rows):
    """Rows of numbers with exponents over the dtype's range, some of them special."""
    info = jnp.finfo(dtype)
    low, high = info.minexp - info.nmant, info.maxexp
    # In half of the rows the magnitudes are similar, in the others they are not.
    middle = rng.uniform(low, high, (rows, 1))
    width = rng.choice([0, 2, 20, high - low], (rows, 1))
    exponent = np.clip(middle + width * rng.uniform(-1, 1, (rows, LONGEST)), low, high)
    wide = np.exp2(exponent.astype(np.longdouble))
    wide = np.minimum(wide, np.longdouble(float(info.max)))
    wide *= rng.choice([-1, 1], wide.shape)
    wide[rng.random(wide.shape) < 0.1] = 0
    special = rng.random(rows) < 0.05
    column = rng.integers(LONGEST, size=special.sum())
    wide[special, column] = rng.choice([np.inf, -np.inf, np.nan], special.sum())
    kept = rng.integers(1, LONGEST + 1, (rows, 1)) > np.arange(LONGEST)
    return jnp.asarray(np.where(kept, wide, 0).astype(np.float64)).astype(dtype)


def flushed(x, dtype):
    """The numbers as long doubles, without those that XLA:CPU takes for zero."""
    wide = np.asarray(x).astype(np.float64).astype(np.longdouble)
    return np.where(abs(wide) < float(jnp.finfo(dtype).tiny), 0, wide)


def norms(wide, order):
    if order == np.inf:
        return abs(wide).max(axis=1)
    with np.errstate(invalid="ignore"):
        largest = abs(wide).max(axis=1, keepdims=True)
        unit = np.where((largest > 0) & np.isfinite(largest), largest, 1)
        powers = ((abs(wide) / unit) ** order).sum(axis=1)
        return unit[:, 0] * powers ** (np.longdouble(1) / order)


def assert_like(got, expected, dtype, digits, floor=0.0):
    """Equal up to rounding, to inf above the dtype's range, and to `floor` below it."""
    info = jnp.finfo(dtype)
    largest, eps = np.longdouble(float(info.max)), float(info.eps)
    got = np.asarray(got).astype(np.float64).astype(np.longdouble)
    with np.errstate(invalid="ignore"):
        close = abs(got - expected) <= digits * eps * abs(expected) + floor
        top = abs(expected) >= largest * (1 - digits * eps)
    over = top & (np.isinf(got) | (abs(got) >= largest * (1 - digits * eps)))
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    wrong = np.flatnonzero(~(close | over | same).reshape(len(got), -1).all(axis=1))
    assert not len(wrong), (len(wrong), got[wrong[:3]], expected[wrong[:3]])


@jax.jit
def all_norms(x):
    return [
        jax.vmap(lambda row, p=p: stabjax.global_norm({"a": row[:5], "b": row[5:]}, p))(
            x
        )
        for p in ORDERS
    ]


@jax.jit
def clipped(x, limits):
    def one(row, limit):
        transformation = stabjax.clip_by_global_norm(limit)
        return transformation.update(row, transformation.init(row))[0]

    return jax.vmap(one)(x, limits)


def check_norms(rng, dtype, rows):
    x = numbers(rng, dtype, rows)
    result = "float64" if dtype == "float64" else "float32"
    wide = flushed(x, result)
    tiny = float(jnp.finfo(result).tiny)
    for order, got in zip(ORDERS, all_norms(x), strict=True):
        # A norm of the smallest numbers may be rounded down to zero.
        assert_like(got, norms(wide, order), result, 16, 2 * tiny)


def check_clipping(rng, dtype, rows):
    x = numbers(rng, dtype, rows)
    result = "float64" if dtype == "float64" else "float32"
    info, tiny = jnp.finfo(result), float(jnp.finfo(result).tiny)
    # Below `tiny` 2^4, a threshold may be flushed to zero.
    limits = np.exp2(rng.uniform(info.minexp + 4, info.maxexp - 1, rows))
    limits = np.where(rng.random(rows) < 0.1, rng.choice([0, np.inf], rows), limits)
    limits = jnp.asarray(limits.astype(result))
    wide = flushed(x, result)
    norm = norms(wide, 2)
    limit = np.asarray(limits).astype(np.longdouble)
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = np.where(norm <= limit, 1, limit / norm)
        expected = np.where(np.isfinite(norm)[:, None], wide * factor[:, None], np.nan)
    own = float(jnp.finfo(dtype).tiny) * float(jnp.finfo(dtype).eps)
    assert_like(clipped(x, limits), expected, dtype, 16, max(own, 2 * tiny))


CHECKS = {"norms": check_norms, "clipping": check_clipping}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("dtype", models.DTYPES)
def test_arrays_of_any_magnitude(check, dtype):
    with models.x64_if(dtype):
        CHECKS[check](np.random.default_rng(0), dtype, ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_a_million_arrays_of_any_magnitude(check):
    rng = np.random.default_rng(1)
    for _ in range(-(-LONG // (ROWS * len(models.DTYPES)))):
        for dtype in models.DTYPES:
            with models.x64_if(dtype):
                CHECKS[check](rng, dtype, ROWS)
