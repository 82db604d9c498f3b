"""A learning rate that falls when the loss no longer does."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from stabjax._norms import norm_dtype, widened
from stabjax._schedules.arguments import check


class ReduceOnPlateauState(NamedTuple):
    """State of :func:`reduce_on_plateau`; names and order are Optax's."""

    scale: jax.Array
    best_value: jax.Array
    plateau_count: jax.Array  # int32: decisions in a row without improvement
    cooldown_count: jax.Array  # int32: decisions that are still to be ignored
    value_count: jax.Array  # int32: values in the mean; Optax calls it count
    avg_value: jax.Array  # their mean
    metrics: dict[str, jax.Array]  # scale, best_value


class _Rule(NamedTuple):
    """Numbers of :func:`reduce_on_plateau`; `limit` is the plateau that reduces."""

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
    factor: ArrayLike = 0.1,
    patience: ArrayLike = 10,
    rtol: ArrayLike = 1e-4,
    atol: ArrayLike = 0.0,
    cooldown: ArrayLike = 0,
    accumulation_size: ArrayLike = 1,
    min_scale: ArrayLike = 0.0,
    *,
    mode: str = "min",
    semantics: str = "optax",
    eps: ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Multiplies the updates by a scale that falls when a metric no longer improves.

    The scale :math:`s` starts at 1. With :math:`v` the mean of ``accumulation_size``
    values and :math:`b` the best of these means so far, a decision finds an
    improvement where :math:`v < b - r|b| - a` (where :math:`v > b + r|b| + a` for
    ``mode="max"``), and sets :math:`b = v`. After too many decisions in a row without
    one, :math:`s \leftarrow \max(s f, s_{\min})`, and the ``cooldown`` decisions that
    follow do not count.

    A metric may have any sign; Optax and PyTorch multiply :math:`b` by
    :math:`1 \mp r`, so that a negative metric improves by standing still. A value that
    is not finite is no improvement and never becomes the best.

    Args:
      factor: :math:`f`, in (0, 1).
      patience: decisions without improvement; the last of them reduces the scale in
        Optax's semantics, the next one after them in PyTorch's. A fraction counts as
        Optax's next or PyTorch's last whole number. In Optax's, 0 reduces the scale at
        each improvement, and at nothing else; in PyTorch's, at each failure to improve.
      rtol: :math:`r`, at least 0, and at most 1 for ``mode="min"``.
      atol: :math:`a`, at least 0. If both are 0, any gain is an improvement.
      cooldown: decisions, after a reduction, at which the scale stays.
      accumulation_size: values, that is updates, for each decision.
      min_scale: :math:`s_{\min}`, at least 0. In Optax's semantics the scale is
        raised to it, in PyTorch's never.
      mode: ``"min"`` where smaller is better, or ``"max"``; static.
      semantics: ``"optax"`` or ``"torch"``; static.
      eps: a reduction that lowers the scale by no more than this is left out, as in
        PyTorch, where it is 1e-8 of a learning rate.

    All numbers may be traced.

    Returns:
      A transformation whose ``update`` needs the extra argument ``value``, a scalar;
      the scale applies to the very update that came with the value. Its metrics are
      ``scale`` and ``best_value``; they are float32, or float64 if a parameter is.

    Raises:
      ValueError: if an argument is outside of its range and known.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> tx = stabjax.reduce_on_plateau(factor=0.5, patience=2)
      >>> state = tx.init(jnp.zeros(2))
      >>> for loss in (1.0, 0.8, 0.8, 0.8, 0.8, 0.8):
      ...     updates, state = tx.update(jnp.ones(2), state, value=loss)
      ...     print(float(state.scale), end=" ")
      1.0 1.0 1.0 0.5 0.5 0.25

    Source: Optax's contrib and PyTorch's ``ReduceLROnPlateau``.
    """
    _check_choice("mode", mode, ("min", "max"))
    _check_choice("semantics", semantics, ("optax", "torch"))
    torch, most = semantics == "torch", 1 if mode == "min" else jnp.inf
    check("factor", factor, lambda x: (x > 0) & (x < 1), "between 0 and 1")
    check("rtol", rtol, lambda x: (x >= 0) & (x <= most), f"from 0 to {most}")
    check("accumulation_size", accumulation_size, lambda x: x >= 1, "at least 1")
    others = {"patience": patience, "atol": atol, "cooldown": cooldown}
    for name, number in (others | {"min_scale": min_scale, "eps": eps}).items():
        check(name, number, lambda x: x >= 0, "at least 0")
    rule = _Rule(
        factor=factor,
        limit=jnp.floor(patience) + 1 if torch else jnp.ceil(patience),
        rtol=rtol,
        atol=atol,
        cooldown=cooldown,
        accumulation_size=accumulation_size,
        min_scale=jnp.minimum(min_scale, 1) if torch else min_scale,
        eps=eps,
    )
    sign = 1 if mode == "min" else -1

    def init_fn(params: optax.Params) -> ReduceOnPlateauState:
        dtype = norm_dtype(jax.tree.leaves(params))

        def fields() -> dict[str, jax.Array]:
            # New arrays at each call: a state may be donated, and no buffer twice.
            best = jnp.full((), sign * jnp.inf, dtype)
            return {"scale": jnp.ones((), dtype), "best_value": best}

        return ReduceOnPlateauState(
            **fields(),
            plateau_count=jnp.zeros((), jnp.int32),
            cooldown_count=jnp.zeros((), jnp.int32),
            value_count=jnp.zeros((), jnp.int32),
            avg_value=jnp.zeros((), dtype),
            metrics=_named(fields()),
        )

    def update_fn(
        updates: optax.Updates,
        state: ReduceOnPlateauState,
        params: optax.Params | None = None,
        *,
        value: ArrayLike,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ReduceOnPlateauState]:
        del params, extra_args
        value = jnp.asarray(value)
        if value.size != 1:
            raise ValueError(f"value must be a scalar, got shape {value.shape}")
        dtype = state.scale.dtype
        state = _seen(state, value.reshape(()).astype(dtype), rule.astype(dtype), sign)
        return scaled_updates(updates, state.scale), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


# Jitted: outside of `jit`, a call for each of its operations would take long.
@partial(jax.jit, static_argnames="sign", inline=True)
def _seen(
    state: ReduceOnPlateauState, value: jax.Array, rule: _Rule, sign: int
) -> ReduceOnPlateauState:
    """After one more value: a new mean, and a decision if it is complete."""
    dtype = value.dtype
    count = optax.safe_increment(state.value_count)
    total = state.value_count.astype(dtype) * state.avg_value.astype(dtype) + value
    state = state._replace(value_count=count, avg_value=total / count.astype(dtype))
    complete = count.astype(dtype) >= rule.accumulation_size
    state = jax.tree.map(
        lambda new, old: jnp.where(complete, new, old),
        _decided(state, rule, sign),
        state,
    )
    seen = {"scale": state.scale, "best_value": state.best_value}
    return state._replace(metrics=_named(seen))


def _decided(
    state: ReduceOnPlateauState, rule: _Rule, sign: int
) -> ReduceOnPlateauState:
    """After a decision about the mean; `sign` is -1 where larger is better."""
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
    """All leaves times a scalar, in its dtype or wider, cast back to their own."""

    def scaled(g: jax.Array) -> jax.Array:
        wide = widened(g, norm_dtype([g, scale]))
        return (wide * scale.astype(wide.dtype)).astype(g.dtype)

    return jax.tree.map(scaled, updates)


def _named(fields: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {f"reduce_on_plateau:{name}": value for name, value in fields.items()}


def _check_choice(name: str, value: str, allowed: tuple[str, str]) -> None:
    if value not in allowed:
        one, other = allowed
        raise ValueError(f"{name} must be {one!r} or {other!r}, got {value!r}")
