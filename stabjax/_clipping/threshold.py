"""A threshold: a number, an array, a tracer, a schedule or a tree."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from stabjax._metrics import Report, ReportingTransformation, count_clip

# Any: a tree of numbers, which is a prefix of that of the updates.
Threshold = ArrayLike | Callable[[ArrayLike], ArrayLike] | Any

# (updates, params, limit) -> (bounded updates, whether an entry was bounded)
Bound = Callable[
    [optax.Updates, optax.Params | None, ArrayLike], tuple[optax.Updates, jax.Array]
]


# (updates, limit) -> what the bound does to them
Reporter = Callable[[optax.Updates, ArrayLike], Report]


class ScheduledClipState(NamedTuple):
    """State of a transformation whose threshold is a schedule."""

    clip_step: jax.Array  # int32: the count given to the schedule
    clip_count: jax.Array  # int32: updates that were bounded
    metrics: dict[str, jax.Array]  # threshold, clipped, clip_fraction


def bounded_by(
    threshold: Threshold,
    bound: Bound,
    report: Reporter | None = None,
    *,
    name: str,
    argument: str,
) -> optax.GradientTransformation:
    """The transformation `name` that applies `bound` with its threshold `argument`.

    A constant keeps no state; a schedule keeps its count, and publishes metrics. A tree
    of constants bounds each of its groups by itself. Where it is known what
    a constant does, the transformation reports it.
    """
    if callable(threshold):
        return _scheduled(threshold, bound, name, argument)
    groups: Any = jax.tree.structure(threshold)
    if groups.num_leaves and not jax.tree_util.treedef_is_leaf(groups):
        for limit in jax.tree.leaves(threshold):
            check_between(argument, limit, 0, math.inf)
        bound, report = _by_group(bound, groups, argument), None
        limit = threshold
    else:
        limit = check_threshold(argument, threshold)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, optax.OptState]:
        return bound(updates, params, limit)[0], state

    if report is None:
        return optax.GradientTransformation(optax.init_empty_state, update_fn)
    made = ReportingTransformation(optax.init_empty_state, update_fn)
    made.report = lambda updates: report(updates, limit)
    return made


def map_bounded(
    bound_leaf: Callable[..., tuple[jax.Array, jax.Array]],
    updates: optax.Updates,
    *rest: Any,
) -> tuple[optax.Updates, jax.Array]:
    """Bounds every leaf; tells also whether any leaf was bounded."""
    pairs = jax.tree.map(bound_leaf, updates, *rest)
    bounded = jax.tree.map(lambda _, pair: pair[0], updates, pairs)
    was_bounded = jax.tree.map(lambda _, pair: pair[1], updates, pairs)
    return bounded, jax.tree.reduce(jnp.logical_or, was_bounded, jnp.zeros((), bool))


def _by_group(bound: Bound, groups: Any, argument: str) -> Bound:
    """A bound whose limit is a tree of limits, each for the subtree in its place."""

    def subtrees(tree: Any) -> list[Any]:
        if tree is None:
            return [None] * groups.num_leaves
        try:
            found: list[Any] = groups.flatten_up_to(tree)
        except ValueError as error:
            raise ValueError(
                f"{argument} must be a prefix of the updates' tree, or no tree: {error}"
            ) from error
        return found

    def bound_groups(
        updates: optax.Updates, params: optax.Params | None, limits: Any
    ) -> tuple[optax.Updates, jax.Array]:
        parts = (subtrees(updates), subtrees(params), subtrees(limits))
        bounded, clipped = zip(*map(bound, *parts), strict=True)
        return groups.unflatten(bounded), jnp.any(jnp.stack(clipped))

    return bound_groups


def _scheduled(
    schedule: Callable[[ArrayLike], ArrayLike], bound: Bound, name: str, argument: str
) -> optax.GradientTransformation:
    def seen(
        limit: ArrayLike, clipped: ArrayLike, fraction: ArrayLike
    ) -> dict[str, jax.Array]:
        return {
            f"{name}:{argument}": jnp.asarray(limit, jnp.float32),
            f"{name}:clipped": jnp.asarray(clipped, bool),
            f"{name}:clip_fraction": jnp.asarray(fraction, jnp.float32),
        }

    def init_fn(params: optax.Params) -> ScheduledClipState:
        del params
        # Two arrays: a state may be donated, and no buffer twice.
        step, count = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return ScheduledClipState(step, count, seen(0, False, 0))

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
    allowed = "a number, an array or a schedule (count -> value)"
    array = _number(argument, value, allowed)
    if not np.all(array >= 0):
        raise ValueError(f"{argument} must be at least 0, got {value}")
    return value


def _number(argument: str, value: ArrayLike, allowed: str) -> Any:
    array = np.asarray(value)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (np.floating, np.integer)):
        raise TypeError(f"{argument} must be {allowed}, got {value!r}")
    return array.astype(float)


def check_between(argument: str, value: ArrayLike, least: float, most: float) -> None:
    """Raises if a number whose value is known is not in a range."""
    if isinstance(value, jax.core.Tracer):
        return
    array = _number(argument, value, "a number or an array")
    if not np.all((least <= array) & (array <= most)):
        raise ValueError(f"{argument} must be from {least} to {most}, got {value}")
