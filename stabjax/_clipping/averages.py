"""Bias-corrected moving averages that ignore NaN and do not overflow.

Averages are stored bias-corrected. After `count` updates, the newest value has weight
(1 - decay) / (1 - decay^count), which is 1 for the first value. To get the biased
average used in the papers, multiply by `bias_correction(decay, count)`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import DTypeLike

from stabjax._axes import Axes, leaf_axes
from stabjax._metrics import count_clip
from stabjax._norms import (
    ScaledNorm,
    is_float0,
    magnitudes,
    norm_dtype,
    norm_of_leaves,
    safe_root,
    scaled_norm,
)
from stabjax._types import Number


class Weight(NamedTuple):
    """The weight of the newest value in a bias-corrected average."""

    new: jax.Array
    first: jax.Array  # whether this is the first value
    valid: jax.Array  # whether to include the value


def average_weight(decay: jax.Array, count: jax.Array, valid: jax.Array) -> Weight:
    """Returns the weight of value number `count`, counted from 1."""
    return Weight((1 - decay) / bias_correction(decay, count), count == 1, valid)


def bias_correction(decay: jax.Array, count: jax.Array) -> jax.Array:
    """Computes 1 - decay^count without cancellation for a decay near 1."""
    tiny = np.finfo(decay.dtype).tiny
    return -jnp.expm1(count.astype(decay.dtype) * jnp.log(jnp.maximum(decay, tiny)))


def update_mean(mean: jax.Array, x: jax.Array, weight: Weight) -> jax.Array:
    """Computes (1 - a) mean + a x."""
    a = weight.new.astype(mean.dtype)
    old = jnp.where(weight.first, x, mean)
    # a (x - old) would overflow for opposite signs. The difference of products also
    # keeps a constant x exact if a * x is subnormal.
    return jnp.where(weight.valid, old + (a * x - a * old), mean)


def update_root(root: jax.Array, x: jax.Array, weight: Weight) -> jax.Array:
    """Computes sqrt((1 - a) root^2 + a x^2) without overflow or underflow."""
    a, size = weight.new.astype(root.dtype), magnitudes(x)
    before = jnp.where(weight.first, size, root)
    largest = lax.stop_gradient(jnp.maximum(before, size))
    unit = jnp.where(largest > 0, largest, 1)
    old, new = (before / unit) ** 2, (size / unit) ** 2
    updated = unit * safe_root(old + (a * new - a * old))
    return jnp.where(weight.valid, updated, root)


def divide_or_zero(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Divides, returning 0 where the denominator is 0."""
    nonzero = denominator != 0
    return jnp.where(nonzero, numerator / jnp.where(nonzero, denominator, 1), 0)


def zero_moments(params: optax.Params) -> optax.Params:
    """Returns zeros with the shape and sharding of each leaf, in float32 or wider."""

    def zeros(path: tuple[object, ...], leaf: Number) -> jax.Array:
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            place = f"params{jax.tree_util.keystr(path)}"
            raise TypeError(f"{place} must be real, got an array of {dtype}.")
        # `zeros_like(leaf)` keeps the sharding. Eager zeros of the same shape would be
        # on one device, and replicated on an explicit mesh.
        return jnp.zeros_like(leaf, norm_dtype([leaf]))

    return jax.tree.map_with_path(zeros, params)


class Step(NamedTuple):
    """Inputs to one update of a method with averages, as lists of leaves."""

    updates: list[jax.Array]
    averages: list[list[jax.Array]]
    params: list[jax.Array] | None
    axes: list[Axes]  # mapped axes over which each update is sharded
    number: jax.Array  # int32: number of finite updates, including this one
    finite: jax.Array  # whether this update is finite; if not, averages are kept
    dtype: DTypeLike  # dtype of the statistics

    def leaves(self) -> Iterator[tuple[jax.Array, list[jax.Array], Axes]]:
        """Yields each update with its averages and axes."""
        averages = map(list, zip(*self.averages, strict=True))
        return zip(self.updates, averages, self.axes, strict=True)


def leaf_norms(step: Step) -> list[ScaledNorm]:
    """Computes the norm of each leaf, using a single `cond` for each dtype."""
    dtypes = [norm_dtype([g]) for g in step.updates]
    found: dict[int, ScaledNorm] = {}
    for dtype in dict.fromkeys(dtypes):
        members = [i for i, own in enumerate(dtypes) if own == dtype]
        updates = [step.updates[i] for i in members]
        axes = tuple(step.axes[i] for i in members)
        values, units = norm_of_leaves(updates, axes, 2, True)
        for i, value, unit in zip(members, values, units, strict=True):
            found[i] = ScaledNorm(value, unit)
    return [found[i] for i in range(len(dtypes))]


class Moved(NamedTuple):
    """The new update and averages of one leaf."""

    update: jax.Array
    averages: tuple[jax.Array, ...]
    clipped: jax.Array  # whether any element was clipped, on any device


def with_averages(
    state_type: Callable[..., Any],
    name: str,
    rule: Callable[[Step], list[Moved]],
    axis_name: object = None,
    *,
    scalars: int = 0,
    moments: int = 0,
) -> optax.GradientTransformation:
    """Returns a transformation with state (step, clips, *averages, metrics).

    The first `scalars` averages are vectors with one element per leaf, and the other
    `moments` averages are trees like the parameters. A non-finite gradient turns every
    element of the updates into NaN and leaves averages and counts unchanged.
    """

    def init_fn(params: optax.Params) -> Any:
        step, clips = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        norm = jnp.zeros((), norm_dtype(params))
        clipped, fraction = jnp.zeros((), bool), jnp.zeros((), jnp.float32)
        metrics = _metrics(name, norm, clipped, fraction)
        # Vectors, because a tree of scalars would be sharded like the parameters. The
        # size is at least 1 because Orbax cannot save empty arrays.
        size = max(len(jax.tree.leaves(params)), 1)
        vectors = [jnp.zeros(size, norm.dtype) for _ in range(scalars)]
        trees = [zero_moments(params) for _ in range(moments)]
        return state_type(step, clips, *vectors, *trees, metrics)

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Any]:
        norm = scaled_norm(updates, axis_name=axis_name)
        finite = jnp.isfinite(norm.value)
        count, _, *averages, _ = state
        like = jax.tree.leaves(averages[scalars] if moments else updates)
        averages = [_unstack(v, like) for v in averages[:scalars]] + averages[scalars:]
        # Gradients of integers (float0) have no values and are returned unchanged.
        kept = [i for i, g in enumerate(jax.tree.leaves(updates)) if not is_float0(g)]
        axes = leaf_axes("updates", updates, axis_name)
        step = Step(
            _pick(updates, kept),
            [_pick(average, kept) for average in averages],
            None if params is None else _pick(params, kept),
            [axes[i] for i in kept],
            optax.safe_increment(count),
            finite,
            norm.value.dtype,
        )
        moved = rule(step)
        counts, metrics = _counted(name, state, norm, step, moved)
        averages = [
            _put(average, kept, [leaf.averages[i] for leaf in moved])
            for i, average in enumerate(averages)
        ]
        vectors = map(_stack, averages[:scalars], state[2:])
        # Multiplication fuses into the preceding loops; `where` would not.
        factor = jnp.where(finite, 1.0, jnp.nan)
        new = [leaf.update * factor.astype(leaf.update.dtype) for leaf in moved]
        new_state = state_type(*counts, *vectors, *averages[scalars:], metrics)
        return _put(updates, kept, new), new_state

    return optax.GradientTransformation(init_fn, update_fn)


def _unstack(vector: jax.Array, like: list[jax.Array]) -> list[jax.Array]:
    """Splits a vector into scalars with the statistics dtype of each leaf."""
    numbers = list(vector)
    if vector.dtype == np.float64:  # other leaves may be narrower
        for i, leaf in enumerate(like):
            numbers[i] = numbers[i].astype(norm_dtype([leaf]))
    return numbers


# Without `jit`, eager mode would dispatch one operation for each leaf.
@partial(jax.jit, inline=True)
def _stack(numbers: list[jax.Array], vector: jax.Array) -> jax.Array:
    return jnp.stack([x.astype(vector.dtype) for x in numbers])


def _pick(tree: optax.Params, kept: list[int]) -> list[jax.Array]:
    leaves = jax.tree.leaves(tree)
    return [leaves[i] for i in kept]


def _put(tree: optax.Params, kept: list[int], new: list[jax.Array]) -> optax.Params:
    leaves, structure = jax.tree.flatten(tree)
    for i, leaf in zip(kept, new, strict=True):
        leaves[i] = leaf
    return jax.tree.unflatten(structure, leaves)


def _counted(
    name: str, state: Any, norm: ScaledNorm, step: Step, moved: list[Moved]
) -> tuple[tuple[jax.Array, jax.Array], dict[str, jax.Array]]:
    """Returns the counts and metrics after an update. Only finite updates count."""
    count, clips, *_, old = state
    finite, flags = step.finite, [leaf.clipped for leaf in moved]
    clipped = finite & jnp.any(jnp.stack([jnp.zeros((), bool), *flags]))
    steps, new_clips, fraction = count_clip(count, clips, clipped)
    counts = jnp.where(finite, steps, count), jnp.where(finite, new_clips, clips)
    grad_norm = norm.product.astype(old[f"{name}:grad_norm"].dtype)
    fraction = jnp.where(finite, fraction, old[f"{name}:clip_fraction"])
    return counts, _metrics(name, grad_norm, clipped, fraction)


def _metrics(
    name: str, grad_norm: jax.Array, clipped: jax.Array, fraction: jax.Array
) -> dict[str, jax.Array]:
    return {
        f"{name}:grad_norm": grad_norm,
        f"{name}:clipped": clipped,
        f"{name}:clip_fraction": fraction,
    }
