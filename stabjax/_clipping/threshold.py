"""Thresholds: numbers, schedules, or trees of them for different parameter groups."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from stabjax._arguments import check, is_schedule, unrounded
from stabjax._axes import Axes, leaf_axes
from stabjax._metrics import Report, ReportingTransformation, count_clip, metric_key
from stabjax._norms import global_norm, is_float0
from stabjax._paths import leaf_paths, match_prefix
from stabjax._types import Number, Schedule

# Quoted because evaluating this union takes 90 ms at import on Python 3.11.
Threshold: TypeAlias = "Number | Schedule | optax.Params"


class ScheduledClipState(NamedTuple):
    """State of transformations whose threshold is a schedule.

    Attributes:
      clip_step: update count passed to the schedule (int32).
      clip_count: number of clipped updates (int32).
      metrics: `threshold`, `clipped`, `clip_fraction`. See `stabjax.metrics`.
    """

    clip_step: jax.Array
    clip_count: jax.Array
    metrics: dict[str, jax.Array]


class Group(NamedTuple):
    """Leaves that share a threshold."""

    members: list[int]  # indices among the leaves of the updates
    updates: list[jax.Array]
    params: list[jax.Array] | None
    axes: tuple[Axes, ...]  # mapped axes over which each update is sharded


# (group, threshold) -> (clipped leaves, whether any element was clipped)
Bound: TypeAlias = Callable[[Group, Number], tuple[list[jax.Array], jax.Array]]
# (group, threshold) -> report, for methods that can compute it from the norm
Reporter: TypeAlias = Callable[[Group, Number], Report]


def clip_to_threshold(
    name: str,
    thresholds: "Thresholds",
    bound: Bound,
    reporter: Reporter | None = None,
) -> optax.GradientTransformation:
    """Returns a transformation that clips updates to thresholds.

    Constant thresholds need no state. Schedules keep a count and metrics in the state.
    Reports are based on norms and thresholds rather than on rounded updates.
    """

    def init_fn(params: optax.Params) -> optax.OptState:
        del params
        if not thresholds.scheduled:
            return optax.EmptyState()
        # A donated state must not use the same buffer twice.
        step, count = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        values: list[Number] = [jnp.zeros(()) for _ in thresholds.limits]
        clipped, fraction = jnp.zeros((), bool), jnp.zeros((), jnp.float32)
        metrics = thresholds.metrics(name, values, clipped, fraction)
        return ScheduledClipState(step, count, metrics)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, optax.OptState]:
        values = thresholds.at(state)
        updates, clipped = thresholds.apply(bound, values, updates, params)
        if not thresholds.scheduled:
            return updates, state
        step, count, fraction = count_clip(state.clip_step, state.clip_count, clipped)
        metrics = thresholds.metrics(name, values, clipped, fraction)
        return updates, ScheduledClipState(step, count, metrics)

    def report(
        updates: optax.Updates,
        state: optax.OptState = None,
        params: optax.Params | None = None,
    ) -> Report:
        values = thresholds.at(state)
        if reporter and len(values) == 1:
            return reporter(thresholds.groups(updates, params)[0], values[0])
        after, clipped = thresholds.apply(bound, values, updates, params)
        axis_name = None if thresholds.some_axes else thresholds.axis_name
        before = global_norm(updates, axis_name=axis_name)
        return Report(before, global_norm(after, axis_name=axis_name), clipped)

    transformation = ReportingTransformation(init_fn, update_fn)
    transformation.report = report
    return transformation


class Thresholds:
    """Threshold limits and the parameter groups they apply to.

    A callable is a schedule unless it is a tree of numbers (see `is_schedule`). Each
    leaf of a threshold tree applies to the parameters under its path.
    """

    def __init__(
        self,
        argument: str,
        threshold: Threshold,
        axis_name: object = None,
        *,
        some_axes: bool = False,
    ) -> None:
        leaves, structure = jax.tree.flatten(threshold, is_leaf=is_schedule)
        self.argument, self.tree = argument, threshold
        self.axis_name, self.some_axes = axis_name, some_axes
        if not leaves:
            raise TypeError(f"{argument} must be a number, got {threshold!r}.")
        self.limits = leaves
        for limit in self.limits:
            if not is_schedule(limit):
                check(argument, limit, ">= 0")
        self.scheduled = any(map(is_schedule, self.limits))
        self.paths = leaf_paths(jax.tree.unflatten(structure, range(len(leaves))))

    def at(self, state: optax.OptState) -> list[Number]:
        """Evaluates each limit at the count in the state."""
        return [
            unrounded(limit(state.clip_step)) if is_schedule(limit) else limit
            for limit in self.limits
        ]

    def groups(
        self, updates: optax.Updates, params: optax.Params | None
    ) -> list[Group]:
        """Groups the leaves of the updates by limit, without float0 leaves."""
        axes = leaf_axes("updates", updates, self.axis_name, some=self.some_axes)
        leaves = jax.tree.leaves(updates)
        weights = None if params is None else _beside(updates, params)
        positions = [0] * len(leaves)
        if self.paths != [()]:
            positions = match_prefix(self.argument, self.tree, updates, is_schedule)
        groups: list[Group] = []
        for limit in range(len(self.limits)):
            members = [
                i
                for i, position in enumerate(positions)
                if position == limit and not is_float0(leaves[i])
            ]
            chosen = [jnp.asarray(leaves[i]) for i in members]
            beside = None if weights is None else [weights[i] for i in members]
            part = Group(members, chosen, beside, tuple(axes[i] for i in members))
            groups.append(part)
        return groups

    def apply(
        self,
        bound: Bound,
        values: list[Number],
        updates: optax.Updates,
        params: optax.Params | None,
    ) -> tuple[optax.Updates, jax.Array]:
        """Clips the updates, and returns whether any element was clipped."""
        leaves, structure = jax.tree.flatten(updates)
        clipped = jnp.zeros((), bool)
        for group, value in zip(self.groups(updates, params), values, strict=True):
            bounded, exceeded = bound(group, value)
            clipped = clipped | exceeded
            for i, leaf in zip(group.members, bounded, strict=True):
                leaves[i] = leaf
        return jax.tree.unflatten(structure, leaves), clipped

    def metrics(
        self, name: str, values: list[Number], clipped: jax.Array, fraction: jax.Array
    ) -> dict[str, jax.Array]:
        """Returns metrics with the value of each limit and the clipping statistics."""
        keys = [metric_key(name, self.argument, *path) for path in self.paths]
        limits = [jnp.asarray(value, jnp.float32) for value in values]
        return {
            **dict(zip(keys, limits, strict=True)),
            metric_key(name, "clipped"): clipped,
            metric_key(name, "clip_fraction"): fraction,
        }


def _beside(updates: optax.Updates, params: optax.Params) -> list[jax.Array]:
    """Returns the parameters that correspond to the leaves of the updates."""
    found: list[jax.Array] = []
    jax.tree.map(lambda _, w: found.append(w), updates, params)
    return found


def check_params(name: str, group: Group) -> list[jax.Array]:
    """Returns the parameters of a group, or raises a ValueError if there are none."""
    if group.params is None:
        raise ValueError(
            f"params must be passed to {name}, got None. "
            "Call update(updates, state, params)."
        )
    return group.params
