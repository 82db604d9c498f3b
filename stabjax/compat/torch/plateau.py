"""PyTorch's scheduler that watches a metric."""

from typing import Literal

import optax

from stabjax._arguments import as_number, check, check_choice, nan_unless
from stabjax._guards import reduce_on_plateau
from stabjax._schedules.counts import standard_promotion
from stabjax._types import Number


@standard_promotion
def reduce_lr_on_plateau(
    base_lr: Number,
    mode: Literal["min", "max"] = "min",
    factor: Number = 0.1,
    patience: Number = 10,
    threshold: Number = 1e-4,
    threshold_mode: Literal["rel", "abs"] = "rel",
    cooldown: Number = 0,
    min_lr: Number = 0.0,
    eps: Number = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """PyTorch's `ReduceLROnPlateau`: lowers the learning rate when a metric stalls.

    This is a transformation, not a schedule: chain it after an optimizer with learning
    rate `base_lr`, whose updates it scales. It is `stabjax.reduce_on_plateau` with
    PyTorch's semantics: the rate is reduced at the first bad value after `patience` bad
    values in a row. Each update is one `step(metric)`. A reduction applies to that
    update; in PyTorch, which steps after the update, to the next.

    Args:
      base_lr: the learning rate of the optimizer, > 0. **Traceable.**
      mode: whether a smaller or a larger metric is better. **Static.**
      factor: multiplies the learning rate, in (0, 1). **Traceable.**
      patience: the number of bad values in a row that are tolerated. **Traceable.**
      threshold: the smallest improvement. **Traceable.**
      threshold_mode: whether `threshold` is relative to the size of the best metric, or
        absolute. For a negative best metric PyTorch's "rel" is wrong. **Static.**
      cooldown: the number of values ignored after a reduction. **Traceable.**
      min_lr: the lowest learning rate. **Traceable.**
      eps: a reduction by no more than this is skipped. **Traceable.**

    Returns:
      A transformation whose `update` takes the extra argument `value`, a scalar.

    Raises:
      ValueError: a mode does not exist, or a concrete number is out of its range.
      TypeError: an argument is not a number.

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
    """
    check_choice("threshold_mode", threshold_mode, ["rel", "abs"])
    good = check("base_lr", base_lr, "> 0") & check("threshold", threshold, ">= 0")
    good &= check("min_lr", min_lr, ">= 0") & check("eps", eps, ">= 0")
    base_lr = nan_unless(good, as_number("base_lr", base_lr))
    relative = threshold_mode == "rel"
    return reduce_on_plateau(
        factor=factor,
        patience=patience,
        rtol=threshold if relative else 0.0,
        atol=0.0 if relative else threshold,
        cooldown=cooldown,
        min_scale=as_number("min_lr", min_lr) / base_lr,
        mode=mode,
        semantics="torch",
        eps=as_number("eps", eps) / base_lr,
    )
