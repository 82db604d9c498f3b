"""Thresholds learned from past norms: what all such methods share."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from stabjax._metrics import count_clip
from stabjax._norms import ScaledNorm, norm_dtype, scaled_norm
from stabjax._scaling import (
    ClipFactor,
    apply_factor,
    as_scalar,
    clip_factor,
    safe_ratio,
)

# (norms, statistics of the norms before) -> (limits, statistics with these norms); all
# arrays have one entry for each norm along axis 0.
Rule = Callable[[jax.Array, Any], tuple[jax.Array, Any]]


class HistoryClipState(NamedTuple):
    """State of a transformation that learns its threshold from past norms."""

    statistics: Any  # the method's own, each with the norms along axis 0
    history_step: jax.Array  # int32: updates seen
    clip_count: jax.Array  # int32: updates that were bounded
    metrics: dict[str, jax.Array]


def bounded_by_history(
    name: str,
    init: Callable[[int, Any], Any],
    rule: Rule,
    *,
    per_leaf: bool = False,
    zeros_enter: bool = False,
) -> optax.GradientTransformation:
    """The transformation `name` whose limit for each norm a rule learns.

    `init(number, dtype)` are the statistics of so many norms: the global one, or one
    for each leaf. They stay as they were in an update with a norm that is not finite,
    and those of a norm that is zero do, unless `zeros_enter`: it tells nothing of the
    scale, and would freeze whatever multiplies.
    """

    def init_fn(params: optax.Params) -> HistoryClipState:
        leaves = jax.tree.leaves(params)
        dtype = norm_dtype(leaves)
        statistics = init(len(leaves) if per_leaf else 1, dtype)
        # Each its own array: a state may be donated, and no buffer twice.
        steps, clips = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        norms, limits = jnp.zeros(1, dtype), jnp.zeros(1, dtype)
        fraction = jnp.zeros((), jnp.float32)
        seen = _seen(name, norms, limits, jnp.zeros(1, bool), fraction, per_leaf)
        return HistoryClipState(statistics, steps, clips, seen)

    def update_fn(
        updates: optax.Updates,
        state: HistoryClipState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, HistoryClipState]:
        del params
        scaled = _norms_of(updates, per_leaf)
        norms = scaled.product.astype(state.metrics[f"{name}:grad_norm"].dtype)
        # Entries may be finite where their norm is not: it is then as large as can be.
        largest = jnp.minimum(norms, np.finfo(norms.dtype).max)
        known = jnp.where(jnp.isfinite(scaled.value), largest, jnp.nan)
        limits, statistics = rule(known, state.statistics)
        enters = jnp.all(jnp.isfinite(norms)) & (zeros_enter | (norms > 0))
        statistics = jax.tree.map(
            lambda new, old: jnp.where(_beside(enters, old), new, old),
            statistics,
            state.statistics,
        )
        by = clip_factor(scaled, limits.astype(scaled.value.dtype))
        steps, clips, fraction = count_clip(
            state.history_step, state.clip_count, jnp.any(by.exceeded)
        )
        seen = _seen(name, norms, limits, by.exceeded, fraction, per_leaf)
        state = HistoryClipState(statistics, steps, clips, seen)
        return _all_shrunk(updates, by, per_leaf), state

    return optax.GradientTransformation(init_fn, update_fn)


class Streak(NamedTuple):
    """Clips in a row, norm by norm: a spike is short, a change of scale is not."""

    streak_length: jax.Array  # int32
    streak_least: jax.Array  # the smallest norm among them; inf if there are none


def no_streak(number: int, dtype: Any) -> Streak:
    """Of so many norms none has been clipped."""
    return Streak(jnp.zeros(number, jnp.int32), jnp.full(number, jnp.inf, dtype))


def lengthened(
    streak: Streak, clipped: jax.Array, norms: jax.Array, patience: ArrayLike
) -> tuple[Streak, jax.Array, jax.Array]:
    """A streak with one more update; where it has lasted `patience`, and its least."""
    length = jnp.where(clipped, optax.safe_increment(streak.streak_length), 0)
    least = jnp.where(clipped, jnp.minimum(streak.streak_least, norms), jnp.inf)
    lasted = clipped & (length.astype(norms.dtype) >= patience)
    ended = Streak(jnp.where(lasted, 0, length), jnp.where(lasted, jnp.inf, least))
    return ended, lasted, jnp.where(lasted, least, 1)


def scalars(numbers: Mapping[str, ArrayLike], dtype: Any) -> list[jax.Array]:
    """Numbers as scalars of the statistics' dtype, none inf: times zero it is NaN."""
    largest = np.finfo(dtype).max
    return [
        jnp.minimum(as_scalar(name, number, dtype), largest)
        for name, number in numbers.items()
    ]


def softened(limit: jax.Array, norms: jax.Array, eps: float) -> jax.Array:
    """The limit that gives the factor limit / (norm + eps) of many authors."""
    return limit * safe_ratio(norms, norms + eps) if eps else limit


def _norms_of(updates: optax.Updates, per_leaf: bool) -> ScaledNorm:
    """One norm, or that of each leaf, along axis 0."""
    if not per_leaf:
        return ScaledNorm(*(part[None] for part in scaled_norm(updates)))
    leaves = jax.tree.leaves(updates)
    dtype = norm_dtype(leaves)
    norms = [scaled_norm(leaf) for leaf in leaves]
    values = [jnp.zeros(0, dtype), *(norm.value.astype(dtype)[None] for norm in norms)]
    units = [jnp.zeros(0, dtype), *(norm.unit.astype(dtype)[None] for norm in norms)]
    return ScaledNorm(jnp.concatenate(values), jnp.concatenate(units))


def _all_shrunk(
    updates: optax.Updates, by: ClipFactor, per_leaf: bool
) -> optax.Updates:
    leaves, structure = jax.tree.flatten(updates)
    bounded = [
        apply_factor(leaf, ClipFactor(*(part[i if per_leaf else 0] for part in by)))
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, bounded)


def _beside(enters: jax.Array, statistic: jax.Array) -> jax.Array:
    """Of the rank of a statistic, whose axis 0 is that of the norms."""
    return enters.reshape(enters.shape + (1,) * (statistic.ndim - 1))


def _seen(
    name: str,
    norms: jax.Array,
    limits: jax.Array,
    exceeded: jax.Array,
    fraction: jax.Array,
    per_leaf: bool,
) -> dict[str, jax.Array]:
    total = scaled_norm(norms).product.astype(norms.dtype) if per_leaf else norms[0]
    seen = {
        f"{name}:grad_norm": total,
        f"{name}:clipped": jnp.any(exceeded),
        f"{name}:clip_fraction": fraction,
    }
    if per_leaf:
        return seen | {f"{name}:clipped_leaves": jnp.sum(exceeded, dtype=jnp.int32)}
    return seen | {f"{name}:threshold": limits[0].astype(norms.dtype)}
