"""A threshold that may be a number, an array, a tracer or a schedule; and shrinking."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike

from stabjax._metrics import count_clip
from stabjax._norms import ScaledNorm

Threshold = ArrayLike | Callable[[ArrayLike], ArrayLike]

# (updates, params, limit) -> (bounded updates, whether an entry was bounded)
Bound = Callable[
    [optax.Updates, optax.Params | None, ArrayLike], tuple[optax.Updates, jax.Array]
]


class ScheduledClipState(NamedTuple):
    """State of a transformation whose threshold is a schedule."""

    clip_step: jax.Array  # int32: the count given to the schedule
    clip_count: jax.Array  # int32: updates that were bounded
    metrics: dict[str, jax.Array]  # threshold, clipped, clip_fraction


def bounded_by(
    threshold: Threshold, bound: Bound, *, name: str, argument: str
) -> optax.GradientTransformation:
    """The transformation `name` that applies `bound` with its threshold `argument`.

    A constant keeps no state; a schedule keeps its count, and publishes metrics.
    """
    if callable(threshold):
        return _scheduled(threshold, bound, name, argument)
    limit = check_threshold(argument, threshold)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, optax.OptState]:
        return bound(updates, params, limit)[0], state

    return optax.GradientTransformation(optax.init_empty_state, update_fn)


def _scheduled(
    schedule: Callable[[ArrayLike], ArrayLike], bound: Bound, name: str, argument: str
) -> optax.GradientTransformation:
    def seen(
        limit: ArrayLike, clipped: ArrayLike, fraction: ArrayLike
    ) -> dict[str, jax.Array]:
        return {
            f"{name}/{argument}": jnp.asarray(limit, jnp.float32),
            f"{name}/clipped": jnp.asarray(clipped, bool),
            f"{name}/clip_fraction": jnp.asarray(fraction, jnp.float32),
        }

    def init_fn(params: optax.Params) -> ScheduledClipState:
        del params
        zero = jnp.zeros((), jnp.int32)
        return ScheduledClipState(zero, zero, seen(0, False, 0))

    def update_fn(
        updates: optax.Updates,
        state: ScheduledClipState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, ScheduledClipState]:
        limit = schedule(state.clip_step)
        updates, clipped = bound(updates, params, limit)
        step, count, fraction = count_clip(state.clip_step, state.clip_count, clipped)
        return updates, ScheduledClipState(step, count, seen(limit, clipped, fraction))

    return optax.GradientTransformation(init_fn, update_fn)


def check_threshold(argument: str, value: ArrayLike) -> ArrayLike:
    """A threshold as it came, once its value, where it is known, is a bound."""
    if isinstance(value, jax.core.Tracer):
        return value
    array = np.asarray(value)
    if array.dtype == bool or not np.issubdtype(_real_dtype(array), np.number):
        raise TypeError(
            f"{argument} must be a number, an array or a schedule (count -> value), "
            f"got {value!r}"
        )
    if not np.all(array.astype(float) >= 0):
        raise ValueError(f"{argument} must be at least 0, got {value}")
    return value


def _real_dtype(array: np.ndarray) -> np.dtype:
    """NumPy does not count bfloat16 among its numbers; float32 stands for it."""
    return np.dtype(np.float32) if array.dtype == jnp.bfloat16 else array.dtype


def scalar(argument: str, value: ArrayLike, dtype: Any) -> jax.Array:
    """A threshold as a scalar of the dtype of the statistics."""
    array = jnp.asarray(value)
    if array.size != 1:
        raise ValueError(
            f"{argument} must be a single number, got an array of shape {array.shape}"
        )
    return array.reshape(()).astype(dtype)


class Factors(NamedTuple):
    """min(1, limit / norm), as a product of two factors that are applied in turn."""

    first: jax.Array
    second: jax.Array  # 1, or a power of two where the product alone would underflow


def shrink_factors(norm: ScaledNorm, limit: jax.Array) -> Factors:
    """What multiplies entries of a given norm so that their norm is at most `limit`.

    Exactly 1 below the limit. A non-finite norm, and a negative limit, give NaN.
    Multiplying by c / max(norm, c) fuses into the loops that follow, where selecting
    between the two cases does not.
    """
    range_ = np.finfo(norm.value.dtype)
    limit = jnp.where(limit >= 0, jnp.minimum(limit, range_.max), jnp.nan)
    floor = jnp.maximum(limit, range_.tiny)
    factor = limit / jnp.maximum(norm.product, floor)

    # Beyond the range of the dtype (a norm that reads inf, a factor that would be
    # flushed to zero) the same in two steps.
    step = 2.0 ** (range_.maxexp // 2)
    split = factor < range_.tiny / range_.eps
    wide = jnp.minimum(step / norm.unit, range_.max)
    first = limit * wide / jnp.where(split & (norm.value > 0), norm.value, 1)
    first = jnp.where(split, first, factor)
    first = jnp.where(jnp.isfinite(norm.value), first, jnp.nan)
    return Factors(first, jnp.where(split, 1 / step, jnp.ones_like(first)))


def shrunk(x: ArrayLike, factors: Factors) -> jax.Array:
    """An array times both factors, in their dtype, cast back to its own."""
    x = jnp.asarray(x)
    if jnp.iscomplexobj(x):
        return lax.complex(shrunk(x.real, factors), shrunk(x.imag, factors))
    wide = x.astype(factors.first.dtype) * factors.first * factors.second
    return wide.astype(x.dtype)
