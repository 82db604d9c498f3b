"""Shared implementation of thresholds that adapt to past norms."""

from collections.abc import Callable
from operator import itemgetter
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

# (norms, statistics) -> (bounds, new statistics). All arrays have one element per norm
# along axis 0.
Rule = Callable[[jax.Array, Statistics], tuple[jax.Array, Statistics]]


class HistoryClipState(NamedTuple):
    """State of transformations whose threshold adapts to past norms.

    Attributes:
      statistics: statistics of past norms, with norms along the first axis.
      history_step: number of updates (int32).
      clip_count: number of clipped updates (int32).
      metrics: see `stabjax.metrics`.
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
    """Returns the transformation `name`, which clips norms to the bounds of a rule.

    `init(number, dtype)` returns initial statistics for `number` norms: a single global
    norm, or one norm per leaf. Updates with a non-finite norm leave the statistics
    unchanged. So do zero norms unless `reference` is set, because a threshold
    proportional to zero would never recover.
    """
    check_choice("per_leaf", per_leaf, (False, True))
    check_choice("reference", reference, (False, True))

    def init_fn(params: optax.Params) -> HistoryClipState:
        leaves = jax.tree.leaves(params)
        dtype, number = norm_dtype(params), max(len(leaves), 1) if per_leaf else 1
        # A donated state must not use the same buffer twice.
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
        scaled = _norms(updates, per_leaf, axis_name)
        norms = scaled.product.astype(state.metrics[f"{name}:grad_norm"].dtype)
        # If the norm of finite elements overflows, the dtype's maximum replaces it.
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
        return _clipped(updates, factor, per_leaf), state

    return optax.GradientTransformation(init_fn, update_fn)


def _norms(tree: optax.Params, per_leaf: bool, axis_name: object) -> ScaledNorm:
    """Returns at least one norm along axis 0, as Orbax cannot save empty arrays."""
    if per_leaf and jax.tree.leaves(tree):
        return scaled_leaf_norms(tree, axis_name=axis_name)
    norm = scaled_norm(tree, axis_name=axis_name)
    return ScaledNorm(norm.value[None], norm.unit[None])


def _clipped(
    updates: optax.Updates, factors: ClipFactor, per_leaf: bool
) -> optax.Updates:
    """Multiplies each leaf by its own factor, or all leaves by the only one."""
    leaves, structure = jax.tree.flatten(updates)
    indices = range(len(leaves)) if per_leaf else [0] * len(leaves)
    own = [jax.tree.map(itemgetter(i), factors) for i in indices]
    return jax.tree.unflatten(structure, map(apply_factor, leaves, own))


class Streak(NamedTuple):
    """Consecutive clipped updates of each norm. Long streaks indicate a new scale."""

    streak_length: jax.Array  # int32
    streak_least: jax.Array  # the smallest norm in the streak; inf if it is empty


def init_streak(number: int, dtype: DTypeLike) -> Streak:
    """Returns empty streaks for `number` norms."""
    return Streak(jnp.zeros(number, jnp.int32), jnp.full(number, jnp.inf, dtype))


def extend_streak(
    streak: Streak, clipped: jax.Array, norms: jax.Array, patience: jax.Array
) -> tuple[Streak, jax.Array, jax.Array]:
    """Adds an update to a streak.

    A streak ends after `patience` clipped updates. Returns the streak, whether it has
    ended, and its smallest norm.
    """
    length = jnp.where(clipped, optax.safe_increment(streak.streak_length), 0)
    least = jnp.where(clipped, jnp.minimum(streak.streak_least, norms), jnp.inf)
    ended = clipped & (length.astype(norms.dtype) >= patience)
    rest = Streak(jnp.where(ended, 0, length), jnp.where(ended, jnp.inf, least))
    return rest, ended, jnp.where(ended, least, 1)


def with_eps(bound: jax.Array, norms: jax.Array, eps: float) -> jax.Array:
    """Adjusts the bound to use the reference factor bound / (norm + eps)."""
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
