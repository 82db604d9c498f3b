"""timm's scheduler that looks at a metric."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from stabjax._guards.plateau import ReduceOnPlateauState, scaled_updates
from stabjax._schedules.arguments import ArrayLike, check_positive, standard_promotion
from stabjax._schedules.core import linear_schedule
from stabjax.compat.torch import reduce_lr_on_plateau


class PlateauLRState(NamedTuple):
    """State of :func:`plateau_lr_scheduler`."""

    plateau_step: jax.Array  # int32: updates so far
    plateau: ReduceOnPlateauState


def plateau_lr_scheduler(
    base_lr: ArrayLike,
    decay_rate: ArrayLike = 0.1,
    patience_t: ArrayLike = 10,
    threshold: ArrayLike = 1e-4,
    cooldown_t: ArrayLike = 0,
    warmup_t: ArrayLike = 0,
    warmup_lr_init: ArrayLike = 0.0,
    lr_min: ArrayLike = 0.0,
    mode: str = "max",
) -> optax.GradientTransformationExtraArgs:
    r"""A warm-up, and then a rate that falls when a metric no longer improves.

    No schedule, for it looks at a metric: a transformation, to be chained behind an
    optimizer that has the rate `base_lr`. Up to step W the rate is on a straight line,
    and the metric is not looked at; afterwards it is that of
    :func:`stabjax.compat.torch.reduce_lr_on_plateau`. Without a warm-up it is `base_lr`
    at step 0, where timm sets it to `warmup_lr_init` for ever.

    Args:
      base_lr: the learning rate of the optimizer, positive. Traceable.
      decay_rate: what is left of the rate, between 0 and 1. Traceable.
      patience_t: how many bad values in a row do no harm. Traceable.
      threshold: the least improvement, by the size of the best metric. Traceable.
      cooldown_t: values after a reduction that do not count. Traceable.
      warmup_t: :math:`W` in steps. Traceable.
      warmup_lr_init: the rate at step 0 of a warm-up. Traceable.
      lr_min: the least rate. Traceable.
      mode: `"min"` or `"max"`: whether a smaller or a larger metric is better. Static.

    Returns:
      A transformation whose `update` takes the extra argument `value`, a scalar.

    Raises:
      ValueError: an unknown mode; a concrete number is not allowed.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> build = stabjax.compat.timm.plateau_lr_scheduler
      >>> plateau = build(1.0, 0.5, patience_t=0, warmup_t=2)
      >>> state = plateau.init(jnp.ones(()))
      >>> for metric in (1.0, 1.0, 1.0, 1.0, 1.0):
      ...     updates, state = plateau.update(jnp.ones(()), state, value=metric)
      ...     print(round(float(updates), 4), end=" ")
      0.0 0.5 1.0 1.0 0.5

    Source: timm's `PlateauLRScheduler`.
    """
    check_positive(base_lr=base_lr)
    rule = reduce_lr_on_plateau(
        base_lr,
        mode,
        decay_rate,
        patience_t,
        threshold,
        cooldown=cooldown_t,
        min_lr=lr_min,
    )
    warmup = linear_schedule(warmup_lr_init, base_lr, warmup_t)

    @standard_promotion
    def warmup_share(count: jax.Array, dtype: Any) -> jax.Array:
        share = jnp.where(jnp.asarray(warmup_t) > 0, warmup(count) / base_lr, 1)
        return share.astype(dtype)

    @standard_promotion
    def is_warming_up(count: jax.Array) -> jax.Array:
        return jnp.asarray(count <= warmup_t)

    def init_fn(params: optax.Params) -> PlateauLRState:
        return PlateauLRState(jnp.zeros((), jnp.int32), rule.init(params))

    def update_fn(
        updates: optax.Updates,
        state: PlateauLRState,
        params: optax.Params | None = None,
        *,
        value: ArrayLike,
        **extra_args: Any,
    ) -> tuple[optax.Updates, PlateauLRState]:
        del extra_args
        count = state.plateau_step
        warming = is_warming_up(count)
        reduced, seen = rule.update(updates, state.plateau, params, value=value)
        share = warmup_share(count, state.plateau.scale.dtype)
        warmed = scaled_updates(updates, share)
        updates, plateau = jax.tree.map(
            lambda x, y: jnp.where(warming, x, y),
            (warmed, state.plateau),
            (reduced, seen),
        )
        return updates, PlateauLRState(optax.safe_increment(count), plateau)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
