"""What every guard does: it judges a step, and skips it whole or lets it pass."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike

from stabjax._guards.history import History
from stabjax._metrics import check_transformation
from stabjax._norms import norm_dtype, scaled_norm
from stabjax._schedules.arguments import check


class GuardState(NamedTuple):
    """State of a guard."""

    inner_state: optax.OptState
    skip_step: jax.Array  # int32: updates seen
    skip_history: History | tuple[()]  # what the guard remembers of the past
    metrics: dict[str, jax.Array]  # what was skipped, why and how often


class Seen(NamedTuple):
    """What a guard judges a step by."""

    step: jax.Array
    grad_norm: jax.Array
    value: ArrayLike | None  # the extra argument of that name
    nonfinite: jax.Array


class Verdict(NamedTuple):
    """What a judge makes of a step; the names are those of the metrics."""

    reasons: dict[str, jax.Array]  # "what_count" -> whether it speaks against the step
    limits: dict[str, jax.Array]
    history: History | tuple[()]


Judge = Callable[[Seen, Any], Verdict]

# Metrics of all guards beside their reasons, limits and the norm.
_COMMON: dict[str, Any] = {
    "skipped": bool,
    "skip_count": jnp.int32,
    "skip_fraction": jnp.float32,
    "consecutive": jnp.int32,
    "nonfinite": bool,
    "nonfinite_count": jnp.int32,
}


def guard(
    name: str,
    inner: optax.GradientTransformation,
    judge: Judge,
    init_history: Callable[[Any], History | tuple[()]],
    max_consecutive: ArrayLike,
    axis_name: Hashable | None,
) -> optax.GradientTransformationExtraArgs:
    """The guard that skips a step which is not finite, or for the judge's reasons."""
    check_transformation("inner", inner)
    check("max_consecutive", max_consecutive, lambda x: x >= 0, "at least 0")
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> GuardState:
        dtype = norm_dtype(jax.tree.leaves(params))
        history = init_history(dtype)
        step = jnp.zeros((), jnp.int32)
        nothing = Seen(step, jnp.zeros((), dtype), None, jnp.zeros((), bool))
        reasons, limits, _ = jax.eval_shape(judge, nothing, history)
        kinds = _COMMON | dict.fromkeys(reasons, jnp.int32)
        kinds |= dict.fromkeys((*limits, "grad_norm"), dtype)
        # Each its own array: a state may be donated, and no buffer twice.
        zeros = {what: jnp.zeros((), kind) for what, kind in kinds.items()}
        metrics = zeros | {"nonfinite_leaf": jnp.full((), -1, jnp.int32)}
        return GuardState(inner.init(params), step, history, _named(name, metrics))

    def update_fn(
        updates: optax.Updates,
        state: GuardState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, GuardState]:
        before = _unnamed(name, state.metrics)
        # A decision has no derivative; that of what it rests on, which metrics publish,
        # may be NaN, also times 0.
        norm, leaf = _looked_at(lax.stop_gradient(updates), axis_name)
        norm = norm.astype(before["grad_norm"].dtype)
        seen = Seen(state.skip_step, norm, extra_args.get("value"), leaf >= 0)
        reasons, limits, history = lax.stop_gradient(judge(seen, state.skip_history))
        reasons = {"nonfinite_count": seen.nonfinite, **reasons}

        bad = jnp.stack(list(reasons.values())).any()
        streak = jnp.where(bad, optax.safe_increment(before["consecutive"]), 0)
        passes = ~bad | _exceeds(streak, max_consecutive)
        updates, inner_state = _unless_skipped(
            passes, inner, (updates, state.inner_state, params), extra_args
        )
        step = optax.safe_increment(state.skip_step)
        counts = _counted(before, reasons | {"skip_count": ~passes})
        began = seen.nonfinite & ~before["nonfinite"]
        metrics = {
            **counts,
            **limits,
            "skipped": ~passes,
            "skip_fraction": _share(counts["skip_count"], step),
            "consecutive": streak,
            "nonfinite": seen.nonfinite,
            "nonfinite_leaf": jnp.where(began, leaf, before["nonfinite_leaf"]),
            "grad_norm": norm,
        }
        return updates, GuardState(inner_state, step, history, _named(name, metrics))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


# Jitted, for otherwise each call outside of `jit` would compile its `cond` anew.
@partial(jax.jit, static_argnames="axis_name", inline=True)
def _looked_at(
    updates: optax.Updates, axis_name: Hashable | None
) -> tuple[jax.Array, jax.Array]:
    """The norm, and the position of the first leaf that is not finite, or -1.

    Where the norm is finite all entries are, so that the tree is read once; finite
    entries of which even the norm overflows have the largest number for a norm.
    """
    norm = scaled_norm(updates, axis_name=axis_name).product
    leaf: jax.Array = lax.cond(
        jnp.isfinite(norm),
        lambda: jnp.full_like(norm, -1, jnp.int32),
        lambda: _first_nonfinite(updates, axis_name),
    )
    largest = jnp.minimum(norm, np.finfo(norm.dtype).max)
    return jnp.where(leaf < 0, largest, norm), leaf


def _first_nonfinite(updates: optax.Updates, axis_name: Hashable | None) -> jax.Array:
    leaves = jax.tree.leaves(updates)
    spoilt = jnp.array([~jnp.isfinite(leaf).all() for leaf in leaves], bool)
    if axis_name is not None:
        spoilt = lax.psum(spoilt.astype(jnp.int32), axis_name) > 0
    position = jnp.arange(len(leaves), dtype=jnp.int32)
    first = jnp.min(position, where=spoilt, initial=len(leaves))
    return jnp.where(spoilt.any(), first, -1)


def _unless_skipped(
    passes: jax.Array,
    inner: optax.GradientTransformationExtraArgs,
    arguments: tuple[optax.Updates, optax.OptState, optax.Params | None],
    extra_args: dict[str, Any],
) -> tuple[optax.Updates, optax.OptState]:
    """What `inner` makes of the updates; or zeros, and its state as it was."""
    updates, inner_state, params = arguments

    def step() -> tuple[optax.Updates, optax.OptState]:
        # Under `vmap` this runs for skipped steps too, and its derivative, times 0,
        # must be 0: so there it is taken at ones, where norms and roots have one.
        safe = jax.tree.map(lambda g: jnp.where(passes, g, jnp.ones_like(g)), updates)
        done: tuple[optax.Updates, optax.OptState] = inner.update(
            safe, inner_state, params, **extra_args
        )
        return done

    made, _ = jax.eval_shape(step)

    def skip() -> tuple[optax.Updates, optax.OptState]:
        zeros = jax.tree.map(
            lambda g, u: jnp.zeros_like(g, dtype=u.dtype), updates, made
        )
        return zeros, inner_state

    result: tuple[optax.Updates, optax.OptState] = lax.cond(passes, step, skip)
    return result


def _counted(
    before: dict[str, jax.Array], happened: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """One more of each count whose event happened."""
    return {
        what: jnp.where(now, optax.safe_increment(before[what]), before[what])
        for what, now in happened.items()
    }


def _exceeds(count: jax.Array, limit: ArrayLike) -> jax.Array:
    return count.astype(jnp.float32) > jnp.asarray(limit).astype(jnp.float32)


def _share(count: jax.Array, of: jax.Array) -> jax.Array:
    return count.astype(jnp.float32) / of.astype(jnp.float32)


def _named(name: str, metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {f"{name}:{what}": value for what, value in metrics.items()}


def _unnamed(name: str, metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {full.removeprefix(f"{name}:"): value for full, value in metrics.items()}
