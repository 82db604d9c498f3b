"""Learning rate reduction when a metric stops improving."""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stabjax._arguments import check_choice
from stabjax._guards.decision import checked
from stabjax._guards.mesh import scalar_loss
from stabjax._metrics import metric_key
from stabjax._norms import norm_dtype
from stabjax._paths import check_arrays
from stabjax._scaling import multiply
from stabjax._types import Number


class ReduceOnPlateauState(NamedTuple):
    """State of `reduce_on_plateau`. Field names and order follow Optax.

    Attributes:
      scale: current scale of the updates.
      best_value: best mean value so far.
      plateau_count: consecutive decisions without improvement (int32).
      cooldown_count: remaining cooldown decisions (int32).
      value_count: number of values in the current mean (int32). Optax calls it `count`.
      avg_value: mean of the current values.
      metrics: `scale`, `best_value`. See `stabjax.metrics`.
    """

    scale: jax.Array
    best_value: jax.Array
    plateau_count: jax.Array
    cooldown_count: jax.Array
    value_count: jax.Array
    avg_value: jax.Array
    metrics: dict[str, jax.Array]


class _Rule(NamedTuple):
    """Numeric arguments of `reduce_on_plateau`. `limit` is the plateau length."""

    factor: Any
    limit: Any
    rtol: Any
    atol: Any
    cooldown: Any
    accumulation_size: Any
    min_scale: Any
    eps: Any

    def astype(self, dtype: Any) -> "_Rule":
        return _Rule(*(jnp.asarray(number).astype(dtype) for number in self))


def reduce_on_plateau(
    factor: Number = 0.1,
    patience: Number = 10,
    rtol: Number = 1e-4,
    atol: Number = 0.0,
    cooldown: Number = 0,
    accumulation_size: Number = 1,
    min_scale: Number = 0.0,
    *,
    mode: Literal["min", "max"] = "min",
    semantics: Literal["optax", "torch"] = "optax",
    eps: Number = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Reduces the scale of updates when a metric has stopped improving.

    The scale `s` is initially 1. Let `v` be the mean of `accumulation_size` values and
    `b` the best mean so far. A mean counts as an improvement if

        v < b - rtol |b| - atol    (v > b + rtol |b| + atol for mode="max")

    and then `b = v`. After too many consecutive means without improvement, `s` becomes
    `max(factor * s, min_scale)`, and the next `cooldown` means are ignored.

    Metrics may be negative. Optax and PyTorch compare with `b` times `1 - rtol` or
    `1 + rtol`, which treats an unchanged negative metric as an improvement. Non-finite
    values are never improvements.

    Args:
      factor: factor by which the scale is reduced, in (0, 1). **Traceable.**
      patience: number of means without improvement, >= 0. With Optax semantics, the
        last of them reduces the scale. With PyTorch semantics, the next one does.
        Fractions are rounded up for Optax and down for PyTorch. With 0, Optax reduces
        the scale only at improvements, and PyTorch at every mean without improvement.
        **Traceable.**
      rtol: relative threshold for an improvement, >= 0, and <= 1 for `mode="min"`.
        **Traceable.**
      atol: absolute threshold for an improvement, >= 0. If both thresholds are 0, any
        gain counts. **Traceable.**
      cooldown: number of means to ignore after a reduction, >= 0. **Traceable.**
      accumulation_size: number of values to average, with one value per update, >= 1.
        **Traceable.**
      min_scale: lower bound on the scale, >= 0. With Optax semantics, smaller scales
        are raised to this bound. **Traceable.**
      mode: `"min"` if smaller values are better, or `"max"`. **Static.**
      semantics: `"optax"` or `"torch"`. **Static.**
      eps: minimum decrease of the scale, >= 0. Smaller reductions are ignored. PyTorch
        uses 1e-8 of the learning rate. **Traceable.**

    Returns:
      A transformation. Its `update` requires the extra argument `value`, a scalar. The
      new scale applies to the same update. Inside `shard_map`, the value is averaged
      over the mesh axes along which it varies. The metrics are `scale` and
      `best_value`, in float64 if any parameter is float64 and float32 otherwise.

    Raises:
      ValueError: If an argument is out of range, or `value` is not a scalar.
      TypeError: If an argument is not a number, or a parameter is not an array.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> tx = stabjax.reduce_on_plateau(factor=0.5, patience=2)
      >>> state = tx.init(jnp.zeros(2))
      >>> for loss in (1.0, 0.8, 0.8, 0.8, 0.8, 0.8):
      ...     updates, state = tx.update(jnp.ones(2), state, value=loss)
      ...     print(float(state.scale), end=" ")
      1.0 1.0 1.0 0.5 0.5 0.25

    References:
      Optax, `contrib.reduce_on_plateau`. https://optax.readthedocs.io
      PyTorch, `ReduceLROnPlateau`. https://docs.pytorch.org
    """
    check_choice("mode", mode, ("min", "max"))
    check_choice("semantics", semantics, ("optax", "torch"))
    given = {
        "factor": (factor, "in (0, 1)"),
        "patience": (patience, ">= 0"),
        "rtol": (rtol, "in [0, 1]" if mode == "min" else ">= 0"),
        "atol": (atol, ">= 0"),
        "cooldown": (cooldown, ">= 0"),
        "accumulation_size": (accumulation_size, ">= 1"),
        "min_scale": (min_scale, ">= 0"),
        "eps": (eps, ">= 0"),
    }
    rule = _checked_rule(given, semantics)
    sign = 1 if mode == "min" else -1

    def init_fn(params: optax.Params) -> ReduceOnPlateauState:
        check_arrays("params", params)
        dtype = norm_dtype(params)

        def fields() -> dict[str, jax.Array]:
            # A donated state must not use the same buffer twice.
            best = jnp.full((), sign * jnp.inf, dtype)
            return {"scale": jnp.ones((), dtype), "best_value": best}

        return ReduceOnPlateauState(
            **fields(),
            plateau_count=jnp.zeros((), jnp.int32),
            cooldown_count=jnp.zeros((), jnp.int32),
            value_count=jnp.zeros((), jnp.int32),
            avg_value=jnp.zeros((), dtype),
            metrics=_keyed(fields()),
        )

    def update_fn(
        updates: optax.Updates,
        state: ReduceOnPlateauState,
        params: optax.Params | None = None,
        *,
        value: Number | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ReduceOnPlateauState]:
        del params, extra_args
        if value is None:
            raise TypeError(
                "value must be the loss or another metric of the step, got None. Pass "
                "optimizer.update(grads, state, params, value=loss)."
            )
        dtype = state.scale.dtype
        loss = scalar_loss(value, dtype, None)
        state = _next(state, loss, rule.astype(dtype), sign)
        return scaled_updates(updates, state.scale), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _checked_rule(given: dict[str, tuple[Number, str]], semantics: str) -> _Rule:
    """Checks the numbers and converts the patience to the length of a plateau."""
    numbers = {
        name: checked(name, number, allowed)
        for name, (number, allowed) in given.items()
    }
    patience = numbers.pop("patience")
    if semantics == "optax":
        return _Rule(limit=jnp.ceil(patience), **numbers)
    numbers["min_scale"] = jnp.minimum(jnp.asarray(numbers["min_scale"]), 1)
    return _Rule(limit=jnp.floor(patience) + 1, **numbers)


# Without `jit`, eager mode would dispatch each operation one by one.
@partial(jax.jit, static_argnames="sign", inline=True)
def _next(
    state: ReduceOnPlateauState, value: jax.Array, rule: _Rule, sign: int
) -> ReduceOnPlateauState:
    """Adds a value to the mean, and makes a decision if the mean is complete."""
    dtype = value.dtype
    count = optax.safe_increment(state.value_count)
    before = state.avg_value.astype(dtype)
    # Without k, the sum of values near the largest number would overflow.
    huge = jnp.maximum(abs(before), abs(value)) > 2.0 ** (np.finfo(dtype).maxexp - 32)
    k, inverse = jnp.where(huge, 2.0**-32, 1.0), jnp.where(huge, 2.0**32, 1.0)
    k, inverse = k.astype(dtype), inverse.astype(dtype)
    total = state.value_count.astype(dtype) * (before * k) + value * k
    mean = total / count.astype(dtype) * inverse
    state = state._replace(value_count=count, avg_value=mean)
    complete = count.astype(dtype) >= rule.accumulation_size
    state = jax.tree.map(
        lambda new, old: jnp.where(complete, new, old),
        _decided(state, rule, sign),
        state,
    )
    published = {"scale": state.scale, "best_value": state.best_value}
    return state._replace(metrics=_keyed(published))


def _decided(
    state: ReduceOnPlateauState, rule: _Rule, sign: int
) -> ReduceOnPlateauState:
    """Makes a decision about the mean. `sign` is -1 for `mode="max"`."""
    best, value = sign * state.best_value, sign * state.avg_value
    bar = jnp.where(
        jnp.isfinite(best), best * (1 - rule.rtol * jnp.sign(best)) - rule.atol, best
    )
    improved = jnp.isfinite(value) & (value < bar)
    cooling = state.cooldown_count > 0
    bad = jnp.where(improved, 0, optax.safe_increment(state.plateau_count))
    reduced = ~cooling & (bad.astype(value.dtype) == rule.limit)

    lower = jnp.maximum(state.scale * rule.factor, rule.min_scale)
    falls = reduced & (state.scale - lower > rule.eps)
    raised = jnp.maximum(state.scale, rule.min_scale)
    cooldown = jnp.where(reduced, rule.cooldown.astype(jnp.int32), 0)
    return state._replace(
        scale=jnp.where(falls, lower, jnp.where(cooling, state.scale, raised)),
        best_value=jnp.where(improved, state.avg_value, state.best_value),
        plateau_count=jnp.where(cooling | reduced, 0, bad),
        cooldown_count=jnp.where(cooling, state.cooldown_count - 1, cooldown),
        value_count=jnp.zeros_like(state.value_count),
        avg_value=jnp.zeros_like(state.avg_value),
    )


def scaled_updates(updates: optax.Updates, scale: jax.Array) -> optax.Updates:
    """Multiplies all leaves by a scalar, preserving their dtypes."""
    return jax.tree.map(lambda g: multiply(g, scale), updates)


def _keyed(fields: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {metric_key("reduce_on_plateau", name): x for name, x in fields.items()}
