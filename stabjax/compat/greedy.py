"""The "greedy" rule of transformers, which raises or lowers the learning rate."""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from stabjax._arguments import (
    as_integer,
    as_number,
    check,
    check_choice,
    nan_unless,
)
from stabjax._guards.mesh import scalar_loss
from stabjax._guards.plateau import scaled_updates
from stabjax._norms import norm_dtype
from stabjax._types import Number


class GreedyState(NamedTuple):
    """State of the greedy rule."""

    greedy_rate: jax.Array
    greedy_best: jax.Array
    good_count: jax.Array  # int32: consecutive improvements
    bad_count: jax.Array  # int32: consecutive metrics without improvement
    pause_count: jax.Array  # int32: remaining metrics to ignore
    patience_at_min: jax.Array  # int32: reductions at the minimum until a restart
    window: jax.Array  # recent metrics, NaN if unused; one element without smoothing
    metrics: dict[str, jax.Array]


class _Rule(NamedTuple):
    """Numeric arguments of the greedy rule, all traceable."""

    learning_rate: Number
    factor: Number
    patience: Number
    threshold: Number
    cooldown: Number
    warmup: Number
    min_lr: Number
    max_lr: Number
    eps: Number
    reset_start: Number


def greedy(
    learning_rate: Number,
    mode: Literal["min", "max"] = "min",
    factor: Number = 0.95,
    patience: Number = 10,
    threshold: Number = 1e-6,
    threshold_mode: Literal["rel", "abs"] = "abs",
    cooldown: Number = 0,
    warmup: Number = 0,
    min_lr: Number = 1e-3,
    max_lr: Number = 1.0,
    eps: Number = 1e-8,
    smooth: bool = False,
    window_size: int = 50,
    reset_start: Number = 500,
) -> optax.GradientTransformationExtraArgs:
    """Scales updates by the "greedy" rule of `get_scheduler`."""
    check_choice("mode", mode, ["min", "max"])
    check_choice("threshold_mode", threshold_mode, ["rel", "abs"])
    good = check("learning_rate", learning_rate, "> 0")
    good &= check("factor", factor, "in (0, 1)")
    numbers = (learning_rate, factor, patience, threshold, cooldown, warmup, min_lr)
    rule = _Rule(*map(as_number, _Rule._fields, (*numbers, max_lr, eps, reset_start)))
    rule = rule._replace(learning_rate=nan_unless(good, rule.learning_rate))
    sign, relative = (1 if mode == "min" else -1), threshold_mode == "rel"
    # Without smoothing, the window has one element because Orbax rejects size 0.
    length = as_integer("window_size", window_size) if smooth else 1

    def init_fn(params: optax.Params) -> GreedyState:
        return _initial(rule, sign, length, norm_dtype(params))

    def update_fn(
        updates: optax.Updates,
        state: GreedyState,
        params: optax.Params | None = None,
        *,
        value: Number,
        **extra_args: object,
    ) -> tuple[optax.Updates, GreedyState]:
        del params, extra_args
        dtype = state.greedy_rate.dtype
        numbers = _Rule(*(jnp.asarray(number).astype(dtype) for number in rule))
        metric = scalar_loss(value, dtype, None)
        state = _updated(state, numbers, metric, sign, relative)
        return scaled_updates(updates, state.greedy_rate / numbers.learning_rate), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _initial(rule: _Rule, sign: int, length: int, dtype: Any) -> GreedyState:
    def zero() -> jax.Array:  # a donated state must not use the same buffer twice
        return jnp.zeros((), jnp.int32)

    state = GreedyState(
        greedy_rate=jnp.array(rule.learning_rate, dtype),
        greedy_best=jnp.full((), sign * jnp.inf, dtype),
        good_count=zero(),
        bad_count=zero(),
        pause_count=zero(),
        patience_at_min=jnp.array(rule.reset_start).astype(jnp.int32),
        window=jnp.full(length, jnp.nan, dtype),
        metrics={},
    )
    return _with_metrics(state)


@partial(jax.jit, static_argnames=("sign", "relative"), inline=True)
def _updated(
    state: GreedyState, rule: _Rule, metric: jax.Array, sign: int, relative: bool
) -> GreedyState:
    """Adds a metric to the state."""
    window = jnp.roll(state.window, 1).at[0].set(metric)
    state, metric = state._replace(window=window), jnp.nanmean(window)
    pausing = state.pause_count > 0
    paused = state._replace(
        pause_count=state.pause_count - 1,
        good_count=jnp.zeros_like(state.good_count),
        bad_count=jnp.zeros_like(state.bad_count),
    )
    decided = _decided(state, rule, metric, sign, relative)
    state = jax.tree.map(partial(jnp.where, pausing), paused, decided)
    return _with_metrics(state)


def _decided(
    state: GreedyState, rule: _Rule, metric: jax.Array, sign: int, relative: bool
) -> GreedyState:
    best, rate = state.greedy_best, state.greedy_rate
    gain = sign * rule.threshold
    better = sign * metric < sign * (best * (1 - gain) if relative else best - gain)
    good = jnp.where(better, state.good_count + 1, 0)
    bad = jnp.where(better, 0, state.bad_count + 1)
    rises = good.astype(metric.dtype) > rule.patience
    falls = bad.astype(metric.dtype) > rule.patience

    higher = jnp.minimum(rate / rule.factor, rule.max_lr)
    lower = jnp.maximum(rate * rule.factor, rule.min_lr)
    rate = jnp.where(rises & (higher - rate > rule.eps), higher, rate)
    rate = jnp.where(falls & (rate - lower > rule.eps), lower, rate)
    at_min = falls & (rate <= rule.min_lr)
    initial = _initial(rule, sign, state.window.size, rate.dtype)
    patience = jnp.where(rises, initial.patience_at_min, state.patience_at_min)
    pause = jnp.where(rises, rule.warmup, jnp.where(falls, rule.cooldown, 0))
    after = state._replace(
        greedy_rate=rate,
        greedy_best=jnp.where(better, metric, best),
        good_count=jnp.where(rises, 0, good),
        bad_count=jnp.where(falls, 0, bad),
        pause_count=pause.astype(jnp.int32),
        patience_at_min=patience - at_min.astype(jnp.int32),
    )
    # In transformers, a restart keeps the cooldown of the reduction that caused it.
    restarted = initial._replace(pause_count=after.pause_count)
    restarts = at_min & (after.patience_at_min <= 0)
    decided: GreedyState = jax.tree.map(partial(jnp.where, restarts), restarted, after)
    return decided


def _with_metrics(state: GreedyState) -> GreedyState:
    # Copies, because a donated state must not use the same buffer twice.
    rate, best = state.greedy_rate + 0, state.greedy_best + 0
    named = {"greedy:learning_rate": rate, "greedy:best_value": best}
    return state._replace(metrics=named)
