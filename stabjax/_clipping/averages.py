"""Running averages that start without bias, and neither overflow nor take in NaN.

An average over `count` updates is kept debiased: its newest value has the weight
(1 - b) / (1 - b^count), which is 1 at first. The biased average of the papers is
`mass(b, count)` times it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike

from stabjax._clipping.threshold import check_threshold
from stabjax._metrics import count_clip
from stabjax._norms import norm_dtype, safe_root, scaled_norm
from stabjax._types import Number


class Weight(NamedTuple):
    """What the newest value of a debiased average weighs."""

    new: jax.Array
    first: jax.Array  # whether nothing was averaged before
    valid: jax.Array  # whether it is to be taken in at all


def weight(decay: jax.Array, count: jax.Array, valid: jax.Array) -> Weight:
    """The weight of the value number `count`, from 1 on."""
    return Weight((1 - decay) / mass(decay, count), count == 1, valid)


def mass(decay: jax.Array, count: jax.Array) -> jax.Array:
    """1 - decay^count, without cancellation."""
    tiny = np.finfo(decay.dtype).tiny
    return -jnp.expm1(count.astype(decay.dtype) * jnp.log(jnp.maximum(decay, tiny)))


def moved_mean(mean: jax.Array, x: jax.Array, by: Weight) -> jax.Array:
    """(1 - a) mean + a x; a value that stays is not touched, however small it is."""
    a = by.new.astype(mean.dtype)
    old = jnp.where(by.first, x, mean)
    return jnp.where(by.valid, old + (a * x - a * old), mean)


def moved_root(root: jax.Array, x: jax.Array, by: Weight) -> jax.Array:
    """sqrt((1 - a) root^2 + a x^2), without squares that leave the range."""
    a, size = by.new.astype(root.dtype), x * jnp.sign(x)
    before = jnp.where(by.first, size, root)
    largest = lax.stop_gradient(jnp.maximum(before, size))
    unit = jnp.where(largest > 0, largest, 1)
    old, new = (before / unit) ** 2, (size / unit) ** 2
    return jnp.where(by.valid, unit * safe_root(old + (a * new - a * old)), root)


def quotient(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Their quotient; 0 where the denominator is 0."""
    some = denominator > 0
    return jnp.where(some, numerator / jnp.where(some, denominator, 1), 0)


def zero_moments(params: optax.Params) -> optax.Params:
    """Returns zeros like each leaf, sharded like it, in the dtype of its statistics."""

    def zeros(path: tuple[object, ...], leaf: Number) -> jax.Array:
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            place = f"params{jax.tree_util.keystr(path)}"
            raise TypeError(f"{place} must be real, got an array of {dtype}.")
        # From the leaf, not its shape: eager zeros of a shape are on one device, and
        # on an explicit mesh their type says that they are replicated.
        return jnp.zeros_like(leaf, norm_dtype([leaf]))

    return jax.tree.map_with_path(zeros, params)


def zero_scalars(params: optax.Params) -> optax.Params:
    """Returns a scalar zero for each leaf, in the dtype of its statistics."""
    return jax.tree.map(lambda leaf: jnp.zeros((), norm_dtype([leaf])), params)


def unzipped(updates: optax.Updates, tuples: Any, width: int) -> tuple[Any, ...]:
    """Trees like `updates` from one that has a tuple in the place of each leaf."""

    def nth(i: int) -> Any:
        return jax.tree.map(lambda _, entries: entries[i], updates, tuples)

    return tuple(nth(i) for i in range(width))


def any_leaf(flags: Any) -> jax.Array:
    """Whether a flag of the tree is true."""
    return jax.tree.reduce(jnp.logical_or, flags, jnp.zeros((), bool))


def check_decay(argument: str, value: ArrayLike) -> ArrayLike:
    """A decay as it came, once its value, where it is known, is one."""
    check_threshold(argument, value)
    if not isinstance(value, jax.core.Tracer) and not np.all(np.asarray(value) < 1):
        raise ValueError(f"{argument} must be at least 0 and below 1, got {value}")
    return value


class Step(NamedTuple):
    """What a step of a method with averages sees."""

    updates: optax.Updates
    averages: tuple[Any, ...]
    params: optax.Params | None
    number: jax.Array  # int32: finite updates so far, this one included
    finite: jax.Array  # whether this one is; if not, averages are to stay
    dtype: Any  # of the statistics


# A step -> its updates, its averages, and whether an entry was bounded.
Move = Callable[[Step], tuple[optax.Updates, tuple[Any, ...], jax.Array]]


def averaging(
    state_type: Callable[..., Any],
    name: str,
    init: Callable[[optax.Params], tuple[Any, ...]],
    move: Move,
) -> optax.GradientTransformation:
    """The transformation `name` whose state is (step, clips, *averages, metrics).

    A non-finite gradient gives NaN in every entry of the updates, and leaves averages
    and counts as they are.
    """

    def init_fn(params: optax.Params) -> Any:
        step, clips = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        norm = jnp.zeros((), norm_dtype(jax.tree.leaves(params)))
        clipped, fraction = jnp.zeros((), bool), jnp.zeros((), jnp.float32)
        seen = _metrics(name, norm, clipped, fraction)
        return state_type(step, clips, *init(params), seen)

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Any]:
        norm = scaled_norm(updates)
        finite = jnp.isfinite(norm.value)
        before, clips, *averages, seen = state
        step = Step(
            updates,
            tuple(averages),
            params,
            optax.safe_increment(before),
            finite,
            norm.value.dtype,
        )
        updates, averages, clipped = move(step)
        clipped = finite & clipped
        count, new_clips, fraction = count_clip(before, clips, clipped)
        counts = jnp.where(finite, count, before), jnp.where(finite, new_clips, clips)
        grad_norm = norm.product.astype(seen[f"{name}:grad_norm"].dtype)
        fraction = jnp.where(finite, fraction, seen[f"{name}:clip_fraction"])
        seen = _metrics(name, grad_norm, clipped, fraction)
        return _spoiled(updates, ~finite), state_type(*counts, *averages, seen)

    return optax.GradientTransformation(init_fn, update_fn)


def _spoiled(updates: optax.Updates, bad: jax.Array) -> optax.Updates:
    # A product, for it fuses into the loops before it.
    factor = jnp.where(bad, jnp.nan, 1.0)
    return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates)


def _metrics(
    name: str, grad_norm: jax.Array, clipped: jax.Array, fraction: jax.Array
) -> dict[str, jax.Array]:
    return {
        f"{name}:grad_norm": grad_norm,
        f"{name}:clipped": clipped,
        f"{name}:clip_fraction": fraction,
    }
