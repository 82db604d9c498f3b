"""PyTorch's `ReduceLROnPlateau`."""

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
    """Returns the equivalent of PyTorch's `ReduceLROnPlateau`.

    This is a transformation rather than a schedule. Chain it after an optimizer with
    learning rate `base_lr` to scale its updates. It is `stabjax.reduce_on_plateau` with
    PyTorch's semantics: the first bad value after `patience` consecutive bad values
    reduces the learning rate. Each update corresponds to one `step(metric)`. A
    reduction applies to the same update, whereas PyTorch steps after the update and
    applies it to the next one.

    Args:
      base_lr: learning rate of the optimizer, > 0. **Traceable.**
      mode: whether smaller or larger metrics are better. **Static.**
      factor: factor by which the learning rate is reduced, in (0, 1). **Traceable.**
      patience: number of consecutive bad values to tolerate. **Traceable.**
      threshold: minimum improvement. **Traceable.**
      threshold_mode: whether `threshold` is absolute or relative to the magnitude of
        the best metric. Unlike PyTorch's, this "rel" mode supports negative metrics.
        **Static.**
      cooldown: number of values to ignore after a reduction. **Traceable.**
      min_lr: minimum learning rate. **Traceable.**
      eps: minimum decrease of the learning rate. Smaller reductions are ignored.
        **Traceable.**

    Returns:
      A transformation. Its `update` requires the extra argument `value`, a scalar.

    Raises:
      ValueError: If a mode is unknown, or a concrete number is out of range.
      TypeError: If an argument is not a number.

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
