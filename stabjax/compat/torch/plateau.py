"""PyTorch's scheduler that looks at a metric."""

import optax

from stabjax._guards import reduce_on_plateau
from stabjax._schedules.arguments import ArrayLike, check_positive, standard_promotion


@standard_promotion
def reduce_lr_on_plateau(
    base_lr: ArrayLike,
    mode: str = "min",
    factor: ArrayLike = 0.1,
    patience: ArrayLike = 10,
    threshold: ArrayLike = 1e-4,
    threshold_mode: str = "rel",
    cooldown: ArrayLike = 0,
    min_lr: ArrayLike = 0.0,
    eps: ArrayLike = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""Multiply the rate by a factor when a metric no longer improves.

    No schedule, for it looks at a metric: a transformation, to be chained behind an
    optimizer that has the rate `base_lr`, whose updates it scales by the share of it
    that is left. It is :func:`stabjax.reduce_on_plateau` in PyTorch's semantics:
    of a metric's bad values in a row, the one after `patience` reduces the rate.

    Each update is one `step` of PyTorch's, and its `value` the metric. A reduction
    applies to that very update; in PyTorch, which steps after the update, to the next.

    Args:
      base_lr: the learning rate of the optimizer, positive. Traceable.
      mode: `"min"` or `"max"`: whether a smaller or a larger metric is better. Static.
      factor: what is left of the rate, between 0 and 1. Traceable.
      patience: how many bad values in a row do no harm. Traceable.
      threshold: the least improvement. Traceable.
      threshold_mode: `"rel"`, of the size of the best metric, also of a negative one,
        with which PyTorch is wrong; or `"abs"`. Static.
      cooldown: values after a reduction that do not count. Traceable.
      min_lr: the least rate. Traceable.
      eps: a reduction of the rate by no more than this is left out. Traceable.

    Returns:
      A transformation whose `update` takes the extra argument `value`, a scalar.

    Raises:
      ValueError: an unknown mode; a concrete number is not allowed.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from stabjax.compat.torch import reduce_lr_on_plateau
      >>> plateau = reduce_lr_on_plateau(0.1, factor=0.5, patience=1)
      >>> optimizer = optax.chain(optax.sgd(0.1), plateau)
      >>> state = optimizer.init(jnp.ones(()))
      >>> for metric in (1.0, 0.8, 0.8, 0.8):
      ...     updates, state = optimizer.update(jnp.ones(()), state, value=metric)
      ...     print(round(float(updates), 4), end=" ")
      -0.1 -0.1 -0.1 -0.05

    Source: PyTorch's `ReduceLROnPlateau`.
    """
    if threshold_mode not in ("rel", "abs"):
        raise ValueError(
            f"threshold_mode must be 'rel' or 'abs', got {threshold_mode!r}."
        )
    check_positive(base_lr=base_lr)
    relative = threshold_mode == "rel"
    return reduce_on_plateau(
        factor=factor,
        patience=patience,
        rtol=threshold if relative else 0.0,
        atol=0.0 if relative else threshold,
        cooldown=cooldown,
        min_scale=min_lr / base_lr,
        mode=mode,
        semantics="torch",
        eps=eps / base_lr,
    )
