"""The part that all guards share: judge a step, then apply it or skip it whole."""

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
    """State of a guard.

    Attributes:
      inner_state: the state of the wrapped transformation.
      skip_step: int32: number of updates.
      skip_history: the past losses and norms, or () where the rule needs none.
      metrics: scalars that `stabjax.metrics` collects.
    """

    inner_state: optax.OptState
    skip_step: jax.Array
    skip_history: History | tuple[()]
    metrics: dict[str, jax.Array]


class Step(NamedTuple):
    """What a guard judges."""

    number: jax.Array
    grad_norm: jax.Array
    value: Number | None  # the loss, if `update` gets it
    nonfinite: jax.Array


class Verdict(NamedTuple):
    """What a judge makes of a step; the keys are names of metrics."""

    reasons: dict[str, jax.Array]  # "what_count" -> whether it speaks against the step
    limits: dict[str, jax.Array]
    history: History | tuple[()]


Judge = Callable[[Step, Any], Verdict]

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
    max_consecutive: Number,
    axis_name: object,
) -> optax.GradientTransformationExtraArgs:
    """The guard that skips a step which is not finite, or for the judge's reasons."""
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
        # Arrays of their own: no buffer of a donated state may occur twice.
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
        # A decision has no derivative. That of the norms, which metrics publish, may be
        # NaN, also times 0.
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
    """Returns a single number, or NaN where a traced one is out of range."""
    good = check(name, value, allowed)
    if np.size(value) != 1:
        raise ValueError(f"{name} must be a scalar, got shape {np.shape(value)}.")
    number = as_number(name, value)
    scalar = number.reshape(()) if isinstance(number, jax.Array) else number
    return nan_unless(jnp.reshape(good, ()) if np.ndim(good) else good, scalar)


# Under `jit`: in eager mode each call would compile its `cond` again.
@partial(jax.jit, static_argnames="axes", inline=True)
def _norm_and_nonfinite_leaf(
    leaves: list[jax.Array], axes: tuple[Axes, ...]
) -> tuple[jax.Array, jax.Array]:
    """The norm, and the position of the first leaf that is not finite, or -1.

    Where the norm is finite all elements are, so the tree is read once. Finite elements
    whose norm overflows have the largest number for a norm.
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
    """The position of the first leaf that is not finite on some shard, or -1."""
    flags = [
        (~jnp.isfinite(leaf)).any().astype(jnp.float32)
        if has_elements(leaf)
        else jnp.zeros((), jnp.float32)
        for leaf in leaves
    ]
    # As norms, the flags of all shards are combined.
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
    """The updates and the state of `inner`; or zeros, and its state as it was."""

    def step(
        updates: optax.Updates, inner_state: optax.OptState, params: optax.Params | None
    ) -> tuple[optax.Updates, optax.OptState]:
        # Under `vmap` this runs for skipped steps too. Its derivative, which is then
        # multiplied by 0, must be finite: so it is taken at ones.
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

    # Operands: a closure would hold arrays outside of `jit`, whose `ones_like` has no
    # sharding on an explicit mesh (jax 0.10).
    result: tuple[optax.Updates, optax.OptState] = lax.cond(
        passes, *of_one_type(step, skip, arguments), *arguments
    )
    return result


def _incremented(
    before: dict[str, jax.Array], happened: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Counts one more of each event that happened."""
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
