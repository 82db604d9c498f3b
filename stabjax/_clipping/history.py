"""Thresholds learned from past norms: what all such methods share."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from stabjax._arguments import check_choice
from stabjax._metrics import count_clip
from stabjax._norms import ScaledNorm, norm_dtype, scaled_leaf_norms, scaled_norm
from stabjax._scaling import ClipFactor, apply_factor, clip_factor, safe_ratio

Statistics = TypeVar("Statistics", bound=optax.OptState)

# (norms, statistics of past norms) -> (their bounds, statistics with these norms). All
# arrays have one element for each norm along axis 0.
Rule = Callable[[jax.Array, Statistics], tuple[jax.Array, Statistics]]


class HistoryClipState(NamedTuple):
    """State of a transformation that learns its threshold from past norms.

    Attributes:
      statistics: the statistics of the method; the first axis runs over the norms.
      history_step: int32: number of updates.
      clip_count: int32: updates that were clipped.
      metrics: scalars that `stabjax.metrics` collects.
    """

    statistics: optax.OptState
    history_step: jax.Array
    clip_count: jax.Array
    metrics: dict[str, jax.Array]


def clip_by_history(
    name: str,
    init: Callable[[int, DTypeLike], Statistics],
    rule: Rule[Statistics],
    *,
    per_leaf: bool = False,
    reference: bool = False,
    axis_name: object = None,
) -> optax.GradientTransformation:
    """Returns the transformation `name`, which bounds norms as a rule says.

    `init(number, dtype)` returns the statistics of so many norms: the global norm, or
    that of each leaf. An update with a norm that is not finite leaves them unchanged.
    So does a norm of zero, except for `reference`: it says nothing about the scale, and
    a threshold that is a multiple of it would stay zero for ever.
    """
    check_choice("per_leaf", per_leaf, (False, True))
    check_choice("reference", reference, (False, True))

    def init_fn(params: optax.Params) -> HistoryClipState:
        leaves = jax.tree.leaves(params)
        dtype, number = norm_dtype(params), max(len(leaves), 1) if per_leaf else 1
        # Separate arrays: a state may be donated, and no buffer twice.
        steps, clips = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        norms, bounds = jnp.zeros(number, dtype), jnp.zeros(number, dtype)
        exceeded, fraction = jnp.zeros(number, bool), jnp.zeros((), jnp.float32)
        metrics = _metrics(name, norms, bounds, exceeded, fraction, per_leaf)
        return HistoryClipState(init(number, dtype), steps, clips, metrics)

    def update_fn(
        updates: optax.Updates,
        state: HistoryClipState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, HistoryClipState]:
        del params
        scaled = _norms(updates)
        norms = scaled.product.astype(state.metrics[f"{name}:grad_norm"].dtype)
        # Elements may be finite where their norm is not: it counts as the largest one.
        finite = jnp.minimum(norms, np.finfo(norms.dtype).max)
        known = jnp.where(jnp.isfinite(scaled.value), finite, jnp.nan)
        bounds, statistics = rule(known, state.statistics)
        enters = jnp.all(jnp.isfinite(norms)) & (reference | (norms > 0))
        statistics = jax.tree.map(
            lambda new, old: jnp.where(_with_rank(enters, old.ndim), new, old),
            statistics,
            state.statistics,
        )
        factor = clip_factor(scaled, bounds.astype(scaled.value.dtype))
        steps, clips, fraction = count_clip(
            state.history_step, state.clip_count, jnp.any(factor.exceeded)
        )
        metrics = _metrics(name, norms, bounds, factor.exceeded, fraction, per_leaf)
        state = HistoryClipState(statistics, steps, clips, metrics)
        return _apply(updates, factor), state

    def _norms(tree: optax.Params) -> ScaledNorm:
        """The norms along axis 0, at least one: Orbax does not save an empty array."""
        if per_leaf and jax.tree.leaves(tree):
            return scaled_leaf_norms(tree, axis_name=axis_name)
        norm = scaled_norm(tree, axis_name=axis_name)
        return ScaledNorm(norm.value[None], norm.unit[None])

    def _apply(updates: optax.Updates, factor: ClipFactor) -> optax.Updates:
        leaves, structure = jax.tree.flatten(updates)
        of_leaves = [
            jax.tree.map(lambda part: part[i if per_leaf else 0], factor)  # noqa: B023
            for i in range(len(leaves))
        ]
        return jax.tree.unflatten(structure, map(apply_factor, leaves, of_leaves))

    return optax.GradientTransformation(init_fn, update_fn)


class Streak(NamedTuple):
    """Consecutive clips of each norm: a spike is short, a change of scale is not."""

    streak_length: jax.Array  # int32
    streak_least: jax.Array  # the smallest norm among them; inf if there are none


def init_streak(number: int, dtype: DTypeLike) -> Streak:
    """Returns the streaks of so many norms, none of which was clipped."""
    return Streak(jnp.zeros(number, jnp.int32), jnp.full(number, jnp.inf, dtype))


def extend_streak(
    streak: Streak, clipped: jax.Array, norms: jax.Array, patience: jax.Array
) -> tuple[Streak, jax.Array, jax.Array]:
    """Returns a streak with one more update, where it ended, and its smallest norm.

    It ends when it is `patience` clips long: the scale has changed.
    """
    length = jnp.where(clipped, optax.safe_increment(streak.streak_length), 0)
    least = jnp.where(clipped, jnp.minimum(streak.streak_least, norms), jnp.inf)
    ended = clipped & (length.astype(norms.dtype) >= patience)
    rest = Streak(jnp.where(ended, 0, length), jnp.where(ended, jnp.inf, least))
    return rest, ended, jnp.where(ended, least, 1)


def with_eps(bound: jax.Array, norms: jax.Array, eps: float) -> jax.Array:
    """Returns the bound that gives the authors' factor bound / (norm + eps)."""
    return bound * safe_ratio(norms, norms + eps) if eps else bound


def _with_rank(enters: jax.Array, ndim: int) -> jax.Array:
    return enters.reshape(enters.shape + (1,) * (ndim - 1))


def _metrics(
    name: str,
    norms: jax.Array,
    bounds: jax.Array,
    exceeded: jax.Array,
    fraction: jax.Array,
    per_leaf: bool,
) -> dict[str, jax.Array]:
    total = scaled_norm(norms).product.astype(norms.dtype) if per_leaf else norms[0]
    metrics = {
        f"{name}:grad_norm": total,
        f"{name}:clipped": jnp.any(exceeded),
        f"{name}:clip_fraction": fraction,
    }
    if per_leaf:
        return metrics | {f"{name}:clipped_leaves": jnp.sum(exceeded, dtype=jnp.int32)}
    return metrics | {f"{name}:threshold": bounds[0].astype(norms.dtype)}
