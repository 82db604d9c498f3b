"""The rule of transformers that raises a learning rate as well as it lowers it."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from stabjax._guards.plateau import scaled_updates
from stabjax._norms import norm_dtype
from stabjax._schedules.arguments import ArrayLike, check, check_positive


class GreedyState(NamedTuple):
    """State of the rule: the rate, and what it has seen of the metric."""

    greedy_rate: jax.Array
    greedy_best: jax.Array
    good_count: jax.Array  # int32: improvements in a row
    bad_count: jax.Array  # int32: metrics in a row without one
    pause_count: jax.Array  # int32: metrics that are still to be ignored
    patience_at_min: jax.Array  # int32: reductions at the least rate before a new start
    window: jax.Array  # the last metrics, NaN where there was none; empty if not smooth
    metrics: dict[str, jax.Array]


class _Rule(NamedTuple):
    """The numbers of the rule; all traceable."""

    factor: ArrayLike
    patience: ArrayLike
    threshold: ArrayLike
    cooldown: ArrayLike
    warmup: ArrayLike
    min_lr: ArrayLike
    max_lr: ArrayLike
    eps: ArrayLike
    reset_start: ArrayLike


def greedy(
    learning_rate: ArrayLike,
    mode: str = "min",
    factor: ArrayLike = 0.95,
    patience: ArrayLike = 10,
    threshold: ArrayLike = 1e-6,
    threshold_mode: str = "abs",
    cooldown: ArrayLike = 0,
    warmup: ArrayLike = 0,
    min_lr: ArrayLike = 1e-3,
    max_lr: ArrayLike = 1.0,
    eps: ArrayLike = 1e-8,
    smooth: bool = False,
    window_size: int = 50,
    reset_start: ArrayLike = 500,
) -> optax.GradientTransformationExtraArgs:
    """Scales the updates of an optimizer of this learning rate: see `get_scheduler`."""
    if mode not in ("min", "max"):
        raise ValueError(f"mode must be 'min' or 'max', got {mode!r}.")
    if threshold_mode not in ("rel", "abs"):
        raise ValueError(
            f"threshold_mode must be 'rel' or 'abs', got {threshold_mode!r}."
        )
    check_positive(learning_rate=learning_rate)
    check("factor", factor, lambda x: (x > 0) & (x < 1), "between 0 and 1")
    rule = _Rule(
        factor, patience, threshold, cooldown, warmup, min_lr, max_lr, eps, reset_start
    )
    modes = (mode == "min", threshold_mode == "rel")

    def init_fn(params: optax.Params) -> GreedyState:
        dtype = norm_dtype(jax.tree.leaves(params))
        return _begun(learning_rate, rule, window_size if smooth else 0, mode, dtype)

    def update_fn(
        updates: optax.Updates,
        state: GreedyState,
        params: optax.Params | None = None,
        *,
        value: ArrayLike,
        **extra_args: Any,
    ) -> tuple[optax.Updates, GreedyState]:
        del params, extra_args
        dtype = state.greedy_rate.dtype
        first = _begun(learning_rate, rule, state.window.size, mode, dtype)
        numbers = jax.tree.map(lambda x: jnp.asarray(x).astype(dtype), rule)
        metric = jnp.asarray(value).astype(dtype).reshape(())
        state = _seen(state, first, metric, numbers, modes)
        share = state.greedy_rate / jnp.asarray(learning_rate).astype(dtype)
        return scaled_updates(updates, share), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _begun(
    learning_rate: ArrayLike, rule: _Rule, window_size: int, mode: str, dtype: Any
) -> GreedyState:
    def none() -> jax.Array:
        return jnp.zeros((), jnp.int32)

    state = GreedyState(
        greedy_rate=jnp.array(learning_rate, dtype),
        greedy_best=jnp.full((), jnp.inf if mode == "min" else -jnp.inf, dtype),
        good_count=none(),
        bad_count=none(),
        pause_count=none(),
        patience_at_min=jnp.array(rule.reset_start).astype(jnp.int32),
        window=jnp.full(window_size, jnp.nan, dtype),
        metrics={},
    )
    return state._replace(metrics=_published(state))


@partial(jax.jit, static_argnames="modes", inline=True)
def _seen(
    state: GreedyState,
    first: GreedyState,
    metric: jax.Array,
    rule: _Rule,
    modes: tuple[bool, bool],
) -> GreedyState:
    """After one more metric."""
    if state.window.size:
        window = jnp.roll(state.window, 1).at[0].set(metric)
        state, metric = state._replace(window=window), jnp.nanmean(window)
    pausing = state.pause_count > 0
    paused = state._replace(
        pause_count=state.pause_count - 1,
        good_count=jnp.zeros_like(state.good_count),
        bad_count=jnp.zeros_like(state.bad_count),
    )
    decided = _decided(state, first, metric, rule, modes)
    state = jax.tree.map(lambda x, y: jnp.where(pausing, x, y), paused, decided)
    return state._replace(metrics=_published(state))


def _decided(
    state: GreedyState,
    first: GreedyState,
    metric: jax.Array,
    rule: _Rule,
    modes: tuple[bool, bool],
) -> GreedyState:
    smaller, relative = modes
    best, sign = state.greedy_best, 1 if smaller else -1
    bar = (
        best * (1 - sign * rule.threshold) if relative else best - sign * rule.threshold
    )
    better = sign * metric < sign * bar
    good = jnp.where(better, state.good_count + 1, 0)
    bad = jnp.where(better, 0, state.bad_count + 1)
    rises = good.astype(metric.dtype) > rule.patience
    falls = bad.astype(metric.dtype) > rule.patience

    rate = state.greedy_rate
    higher = jnp.minimum(rate / rule.factor, rule.max_lr)
    lower = jnp.maximum(rate * rule.factor, rule.min_lr)
    rate = jnp.where(rises & (higher - rate > rule.eps), higher, rate)
    rate = jnp.where(falls & (rate - lower > rule.eps), lower, rate)
    at_min = falls & (rate <= rule.min_lr)
    patience = jnp.where(rises, first.patience_at_min, state.patience_at_min)
    pause = jnp.where(rises, rule.warmup, jnp.where(falls, rule.cooldown, 0))
    after = state._replace(
        greedy_rate=rate,
        greedy_best=jnp.where(better, metric, best),
        good_count=jnp.where(rises, 0, good),
        bad_count=jnp.where(falls, 0, bad),
        pause_count=pause.astype(jnp.int32),
        patience_at_min=patience - at_min.astype(jnp.int32),
    )
    # transformers then still sets the pause of the reduction that led here.
    anew = first._replace(pause_count=after.pause_count)
    begins = at_min & (after.patience_at_min <= 0)
    chosen: GreedyState = jax.tree.map(
        lambda x, y: jnp.where(begins, x, y), anew, after
    )
    return chosen


def _published(state: GreedyState) -> dict[str, jax.Array]:
    return {
        "greedy:learning_rate": state.greedy_rate + 0,
        "greedy:best_value": state.greedy_best + 0,
    }
