"""A learning rate that falls when the loss no longer does."""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stabjax._arguments import check_choice
from stabjax._guards.guard import checked
from stabjax._guards.mesh import scalar_loss
from stabjax._metrics import metric_key
from stabjax._norms import norm_dtype
from stabjax._paths import check_arrays
from stabjax._scaling import multiply
from stabjax._types import Number


class ReduceOnPlateauState(NamedTuple):
    """State of `reduce_on_plateau`; names and order are Optax's.

    Attributes:
      scale: the factor of the update.
      best_value: the best mean value so far.
      plateau_count: int32: decisions in a row without improvement.
      cooldown_count: int32: decisions still to be ignored.
      value_count: int32: values in the current mean; Optax calls it count.
      avg_value: the mean of these values.
      metrics: `scale`, `best_value`; see `stabjax.metrics`.
    """

    scale: jax.Array
    best_value: jax.Array
    plateau_count: jax.Array
    cooldown_count: jax.Array
    value_count: jax.Array
    avg_value: jax.Array
    metrics: dict[str, jax.Array]


class _Rule(NamedTuple):
    """The numbers of `reduce_on_plateau`; a plateau as long as `limit` reduces."""

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
    """Multiplies the updates by a scale that falls when a metric no longer improves.

    The scale `s` starts at 1. With `v` the mean of `accumulation_size` values and `b`
    the best of these means so far, a decision finds an improvement where

        v < b - rtol |b| - atol    (v > b + rtol |b| + atol for mode="max")

    and sets `b = v`. After too many decisions in a row without one, `s` becomes
    `max(factor * s, min_scale)`, and the next `cooldown` decisions do not count.

    A metric may have any sign. Optax and PyTorch multiply `b` by `1 - rtol` or
    `1 + rtol`, so that a negative metric improves by standing still. A value that is
    not finite is not an improvement and never becomes the best.

    Args:
      factor: multiplies the scale; in (0, 1). **Traceable.**
      patience: number of decisions without improvement, >= 0. The last of them reduces
        the scale in Optax's semantics, the next one after them in PyTorch's. A fraction
        counts as Optax's next or PyTorch's last whole number. 0 reduces the scale at
        each improvement, and only then, in Optax's semantics; at each failure to
        improve in PyTorch's. **Traceable.**
      rtol: relative improvement that counts; >= 0, and <= 1 for `mode="min"`.
        **Traceable.**
      atol: absolute improvement that counts; >= 0. If both are 0, any gain counts.
        **Traceable.**
      cooldown: number of decisions after a reduction at which the scale stays; >= 0.
        **Traceable.**
      accumulation_size: number of values, one per update, in each decision; >= 1.
        **Traceable.**
      min_scale: lower bound of the scale; >= 0. In Optax's semantics the scale is
        raised to it, in PyTorch's never. **Traceable.**
      mode: `"min"` where smaller is better, or `"max"`. **Static.**
      semantics: `"optax"` or `"torch"`. **Static.**
      eps: a reduction that lowers the scale by no more than this is left out; >= 0. In
        PyTorch it is 1e-8 of a learning rate. **Traceable.**

    Returns:
      A transformation whose `update` needs the extra argument `value`, a scalar. The
      scale applies to the update that came with the value. Inside `shard_map` the
      value is averaged over the axes along which it varies. Its metrics are `scale` and
      `best_value`: float32, or float64 if a parameter is.

    Raises:
      ValueError: an argument is out of its range, or `value` is not a scalar.
      TypeError: a number is not one, or a leaf of the parameters is not an array.

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
    torch = semantics == "torch"
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
    numbers = {
        name: checked(name, number, allowed)
        for name, (number, allowed) in given.items()
    }
    patience = numbers.pop("patience")
    if torch:
        numbers["min_scale"] = jnp.minimum(jnp.asarray(numbers["min_scale"]), 1)
    limit = jnp.floor(patience) + 1 if torch else jnp.ceil(patience)
    rule = _Rule(limit=limit, **numbers)
    sign = 1 if mode == "min" else -1

    def init_fn(params: optax.Params) -> ReduceOnPlateauState:
        check_arrays("params", params)
        dtype = norm_dtype(params)

        def fields() -> dict[str, jax.Array]:
            # New arrays at each call: no buffer of a donated state may occur twice.
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
        value: Number,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ReduceOnPlateauState]:
        del params, extra_args
        dtype = state.scale.dtype
        loss = scalar_loss(value, dtype, None)
        state = _next(state, loss, rule.astype(dtype), sign)
        return scaled_updates(updates, state.scale), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


# Jitted: outside of `jit`, a call for each of its operations would take long.
@partial(jax.jit, static_argnames="sign", inline=True)
def _next(
    state: ReduceOnPlateauState, value: jax.Array, rule: _Rule, sign: int
) -> ReduceOnPlateauState:
    """The state after one more value: a new mean, and a decision if it is complete."""
    dtype = value.dtype
    count = optax.safe_increment(state.value_count)
    before = state.avg_value.astype(dtype)
    # The sum of 2^31 values near the largest number would overflow, where k is 1.
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
    """The state after a decision about the mean; `sign` is -1 for `mode="max"`."""
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
    """Returns all leaves times a scalar, in their own dtypes."""
    return jax.tree.map(lambda g: multiply(g, scale), updates)


def _keyed(fields: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {metric_key("reduce_on_plateau", name): x for name, x in fields.items()}
