"""Shared implementation of guards, which apply or skip entire steps."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from stabjax._arguments import as_number, check, nan_unless
from stabjax._axes import Axes, leaf_axes
from stabjax._guards.history import History
from stabjax._guards.mesh import of_one_type
from stabjax._metrics import check_transformation, metric_key
from stabjax._norms import has_elements, is_float0, norm_dtype, norm_of_leaves
from stabjax._paths import check_arrays
from stabjax._types import Number


class GuardState(NamedTuple):
    """State of guards.

    Attributes:
      inner_state: state of the wrapped transformation.
      skip_step: number of updates (int32).
      skip_history: past losses and norms, or () if the guard does not use them.
      metrics: see `stabjax.metrics`.
    """

    inner_state: optax.OptState
    skip_step: jax.Array
    skip_history: History | tuple[()]
    metrics: dict[str, jax.Array]


class Step(NamedTuple):
    """Inputs for a guard's decision."""

    number: jax.Array
    grad_norm: jax.Array
    value: Number | None  # the loss, if passed to `update`
    nonfinite: jax.Array


class Verdict(NamedTuple):
    """A guard's decision. Keys are metric names."""

    reasons: dict[str, jax.Array]  # count metric -> whether it is a reason to skip
    limits: dict[str, jax.Array]
    history: History | tuple[()]


Judge = Callable[[Step, Any], Verdict]

# Metrics of all guards, in addition to reasons, limits and the norm.
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
    max_consecutive: Number,
    axis_name: object,
) -> optax.GradientTransformationExtraArgs:
    """Returns a guard that skips non-finite steps and steps rejected by `judge`."""
    check_transformation("inner", inner)
    max_consecutive = checked("max_consecutive", max_consecutive, ">= 0")
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> GuardState:
        check_arrays("params", params)
        dtype = norm_dtype(params)
        history = init_history(dtype)
        number = jnp.zeros((), jnp.int32)
        nothing = Step(number, jnp.zeros((), dtype), None, jnp.zeros((), bool))
        reasons, limits, _ = jax.eval_shape(judge, nothing, history)
        dtypes = _COMMON | dict.fromkeys(reasons, jnp.int32)
        dtypes |= dict.fromkeys((*limits, "grad_norm"), dtype)
        # A donated state must not use the same buffer twice.
        zeros = {metric: jnp.zeros((), kind) for metric, kind in dtypes.items()}
        metrics = zeros | {"nonfinite_leaf": jnp.full((), -1, jnp.int32)}
        return GuardState(inner.init(params), number, history, _keyed(name, metrics))

    def update_fn(
        updates: optax.Updates,
        state: GuardState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, GuardState]:
        before = {key.rpartition(":")[2]: value for key, value in state.metrics.items()}
        dtype = before["grad_norm"].dtype
        # Decisions have no derivative. The norms, which are published as metrics, may
        # have a NaN derivative, and NaN times 0 is NaN.
        norm, leaf = _norm_and_nonfinite_leaf(
            jax.tree.leaves(lax.stop_gradient(updates)),
            leaf_axes("updates", updates, axis_name),
        )
        step = Step(
            state.skip_step, norm.astype(dtype), extra_args.get("value"), leaf >= 0
        )
        reasons, limits, history = lax.stop_gradient(judge(step, state.skip_history))
        reasons = {"nonfinite_count": step.nonfinite, **reasons}

        bad = jnp.stack(list(reasons.values())).any()
        streak = jnp.where(bad, optax.safe_increment(before["consecutive"]), 0)
        passes = ~bad | _exceeds(streak, max_consecutive)
        updates, inner_state = _step_or_skip(
            passes, inner, (updates, state.inner_state, params), extra_args
        )
        number = optax.safe_increment(state.skip_step)
        counts = _incremented(before, reasons | {"skip_count": ~passes})
        began = step.nonfinite & ~before["nonfinite"]
        metrics = {
            **counts,
            **limits,
            "skipped": ~passes,
            "skip_fraction": _fraction(counts["skip_count"], number),
            "consecutive": streak,
            "nonfinite": step.nonfinite,
            "nonfinite_leaf": jnp.where(began, leaf, before["nonfinite_leaf"]),
            "grad_norm": step.grad_norm,
        }
        return updates, GuardState(inner_state, number, history, _keyed(name, metrics))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def checked(name: str, value: Any, allowed: str) -> Number:
    """Converts to a single number, or NaN if a traced number is out of range."""
    good = check(name, value, allowed)
    if np.size(value) != 1:
        raise ValueError(f"{name} must be a scalar, got shape {np.shape(value)}.")
    number = as_number(name, value)
    scalar = number.reshape(()) if isinstance(number, jax.Array) else number
    return nan_unless(jnp.reshape(good, ()) if np.ndim(good) else good, scalar)


# Without `jit`, every eager call would compile its `cond` again.
@partial(jax.jit, static_argnames="axes", inline=True)
def _norm_and_nonfinite_leaf(
    leaves: list[jax.Array], axes: tuple[Axes, ...]
) -> tuple[jax.Array, jax.Array]:
    """Returns the norm and the index of the first non-finite leaf, or -1.

    A finite norm implies finite elements, so the tree is usually read once. If the norm
    of finite elements overflows, the dtype's maximum is returned instead.
    """
    norm = norm_of_leaves(leaves, axes, 2, False).product
    leaf: jax.Array = lax.cond(
        jnp.isfinite(norm),
        lambda: jnp.full_like(norm, -1, jnp.int32),
        lambda: _first_nonfinite(leaves, axes),
    )
    largest = jnp.minimum(norm, np.finfo(norm.dtype).max)
    return jnp.where(leaf < 0, largest, norm), leaf


def _first_nonfinite(leaves: list[jax.Array], axes: tuple[Axes, ...]) -> jax.Array:
    """Returns the index of the first leaf with non-finite elements, or -1."""
    flags = [
        (~jnp.isfinite(leaf)).any().astype(jnp.float32)
        if has_elements(leaf)
        else jnp.zeros((), jnp.float32)
        for leaf in leaves
    ]
    # An inf-norm combines the flags of all shards.
    nonfinite = norm_of_leaves(flags, axes, math.inf, True).product > 0
    position = jnp.arange(len(leaves), dtype=jnp.int32)
    first = jnp.min(position, where=nonfinite, initial=len(leaves))
    return jnp.where(nonfinite.any(), first, -1)


def _step_or_skip(
    passes: jax.Array,
    inner: optax.GradientTransformationExtraArgs,
    arguments: tuple[optax.Updates, optax.OptState, optax.Params | None],
    extra_args: dict[str, Any],
) -> tuple[optax.Updates, optax.OptState]:
    """Updates with `inner`, or returns zeros and the unchanged inner state."""

    def step(
        updates: optax.Updates, inner_state: optax.OptState, params: optax.Params | None
    ) -> tuple[optax.Updates, optax.OptState]:
        # Under `vmap`, this also runs for skipped steps. Their derivatives are then
        # multiplied by 0 and must be finite, so they are computed at ones.
        def safe(g: jax.Array) -> jax.Array:
            return g if is_float0(g) else jnp.where(passes, g, jnp.ones_like(g))

        done: tuple[optax.Updates, optax.OptState] = inner.update(
            jax.tree.map(safe, updates), inner_state, params, **extra_args
        )
        return done

    made, _ = jax.eval_shape(step, *arguments)

    def skip(
        updates: optax.Updates, inner_state: optax.OptState, params: optax.Params | None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params

        def zeros(g: jax.Array, u: jax.ShapeDtypeStruct) -> jax.Array:
            return g if is_float0(g) else jnp.zeros_like(g, dtype=u.dtype)

        return jax.tree.map(zeros, updates, made), inner_state

    # Operands are passed explicitly: on an explicit mesh, `ones_like` of an array in a
    # closure loses its sharding outside of `jit` (JAX 0.10).
    result: tuple[optax.Updates, optax.OptState] = lax.cond(
        passes, *of_one_type(step, skip, arguments), *arguments
    )
    return result


def _incremented(
    before: dict[str, jax.Array], happened: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Increments the counts of events that happened."""
    return {
        metric: jnp.where(now, optax.safe_increment(before[metric]), before[metric])
        for metric, now in happened.items()
    }


def _exceeds(count: jax.Array, limit: Number) -> jax.Array:
    return count.astype(jnp.float32) > jnp.asarray(limit).astype(jnp.float32)


def _fraction(count: jax.Array, total: jax.Array) -> jax.Array:
    return count.astype(jnp.float32) / total.astype(jnp.float32)


def _keyed(name: str, metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {metric_key(name, metric): value for metric, value in metrics.items()}
