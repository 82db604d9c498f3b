"""PyTorch's one cycle, of the rate and of the momentum."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from stabjax._schedules.arguments import (
    ArrayLike,
    builder,
    check,
    check_positive,
    known,
    nan_unless,
    select,
    since,
)
from stabjax._schedules.shapes import half_wave
from stabjax.compat.torch.chains import chained_by


@builder
def one_cycle_lr(
    max_lr: ArrayLike,
    total_steps: ArrayLike | None = None,
    epochs: ArrayLike | None = None,
    steps_per_epoch: ArrayLike | None = None,
    pct_start: ArrayLike = 0.3,
    anneal_strategy: str = "cos",
    *,
    div_factor: ArrayLike = 25.0,
    final_div_factor: ArrayLike = 1e4,
    three_phase: bool = False,
) -> optax.Schedule:
    r"""Up to a peak, and down to nearly nothing, in two phases or three.

    .. math::
        M/d \to M \to M/(dF) \quad \text{at} \quad 0,\ pT - 1,\ T - 1 \qquad \text{or}
        \qquad M/d \to M \to M/d \to M/(dF) \quad \text{at} \quad 0,\ pT - 1,\ 2pT - 2,\
        T - 1

    in half waves of the cosine or straight lines. The boundaries are not rounded, so
    the peak itself is reached only if pT is an integer. Training has the T steps from 0
    to T - 1. PyTorch allows one more, in which it overshoots the end (up again along
    the cosine, or below it on the line) and raises for any after that: here the value
    at T is held. Where PyTorch divides by zero, a phase without steps is left out.

    Args:
      max_lr: :math:`M`, the greatest rate. Traceable.
      total_steps: :math:`T`, a positive integer; or None. Traceable.
      epochs: positive integer which, times `steps_per_epoch`, is T, if `total_steps` is
        None. Traceable.
      steps_per_epoch: positive integer. Traceable.
      pct_start: :math:`p`, a fraction between 0 and 1. Traceable.
      anneal_strategy: `"cos"` or `"linear"`. Static.
      div_factor: :math:`d`, positive. Traceable.
      final_div_factor: :math:`F`, positive. Traceable.
      three_phase: whether to go back to :math:`M/d` first. Static.

    Returns:
      A function of the count, of any shape, that returns the rate, and NaN if an
      argument was traced and is not allowed. Traced, the steps may have fractions. The
      momentum that PyTorch cycles along with it is :func:`one_cycle_momentum`.

    Raises:
      ValueError: a concrete argument is not allowed, or the steps are not given.

    Example:
      >>> from stabjax.compat.torch import one_cycle_lr
      >>> schedule = one_cycle_lr(1.0, total_steps=10, pct_start=0.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 2, 4, 9)]
      [0.04, 0.52, 1.0, 0.0]

    Source: PyTorch's `OneCycleLR`; Smith and Topin, Super-Convergence: Very Fast
    Training of Neural Networks Using Large Learning Rates, 2017 (arXiv 1708.07120).
    """
    steps = _total_steps(total_steps, epochs, steps_per_epoch)
    good = check_positive(div_factor=div_factor, final_div_factor=final_div_factor)
    low = nan_unless(good, max_lr) / div_factor
    back = (low,) if three_phase else ()
    values = (low, max_lr, *back, low / final_div_factor)
    return _one_cycle(values, steps, pct_start, anneal_strategy)


@builder
def one_cycle_momentum(
    total_steps: ArrayLike | None = None,
    epochs: ArrayLike | None = None,
    steps_per_epoch: ArrayLike | None = None,
    pct_start: ArrayLike = 0.3,
    anneal_strategy: str = "cos",
    *,
    base_momentum: ArrayLike = 0.85,
    max_momentum: ArrayLike = 0.95,
    three_phase: bool = False,
) -> optax.Schedule:
    r"""The momentum that goes down where :func:`one_cycle_lr` goes up.

    .. math:: M \to m \to M \quad \text{at} \quad 0,\ pT - 1,\ T - 1

    and with three phases at :math:`0,\ pT - 1,\ 2pT - 2`, then :math:`M` to the end.

    Args:
      total_steps: as of :func:`one_cycle_lr`, like all up to `anneal_strategy`, and
        `three_phase`. Traceable.
      epochs: likewise. Traceable.
      steps_per_epoch: likewise. Traceable.
      pct_start: likewise. Traceable.
      anneal_strategy: likewise. Static.
      base_momentum: :math:`m`, the momentum at the peak of the rate. Traceable.
      max_momentum: :math:`M`, the momentum at both ends. Traceable.
      three_phase: likewise. Static.

    Returns:
      A function of the count, of any shape, that returns the momentum: for
      `optax.inject_hyperparams(optax.sgd)`, or Adam's `b1`.

    Raises:
      ValueError: a concrete argument is not allowed, or the steps are not given.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.one_cycle_momentum(10, pct_start=0.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 2, 4, 9)]
      [0.95, 0.9, 0.85, 0.95]

    Source: PyTorch's `OneCycleLR` with `cycle_momentum=True`.
    """
    steps = _total_steps(total_steps, epochs, steps_per_epoch)
    back = (max_momentum,) if three_phase else ()
    values = (max_momentum, base_momentum, *back, max_momentum)
    return _one_cycle(values, steps, pct_start, anneal_strategy)


def _total_steps(
    total_steps: ArrayLike | None,
    epochs: ArrayLike | None,
    steps_per_epoch: ArrayLike | None,
) -> ArrayLike:
    if total_steps is not None:
        check_whole(total_steps=total_steps)
        return total_steps
    if epochs is None or steps_per_epoch is None:
        raise ValueError(
            "total_steps must be given, or epochs and steps_per_epoch, got "
            f"epochs={epochs} and steps_per_epoch={steps_per_epoch}."
        )
    check_whole(epochs=epochs, steps_per_epoch=steps_per_epoch)
    return epochs * steps_per_epoch


_STRATEGIES: Mapping[str, Callable[[ArrayLike], ArrayLike]] = {
    "cos": half_wave,
    "linear": lambda left: left,
}


def _one_cycle(
    values: Sequence[ArrayLike], steps: ArrayLike, pct_start: ArrayLike, strategy: str
) -> optax.Schedule:
    """From value to value, the first at 0, the second at the peak of the rate."""
    if strategy not in _STRATEGIES:
        raise ValueError(
            f"anneal_strategy must be 'cos' or 'linear', got {strategy!r}."
        )
    good = check_positive(total_steps=steps)
    good &= check(
        "pct_start", pct_start, lambda x: (x >= 0) & (x <= 1), "between 0 and 1"
    )
    # As PyTorch has it: a middle of three phases is as long as the first.
    peak = pct_start * steps - 1
    ends = (peak, *(2 * peak,) * (len(values) - 3), steps - 1)
    starts = (0, *ends[:-1])
    no_last_phase = ends[-1] == starts[-1]

    def schedule(count: ArrayLike) -> ArrayLike:
        count = jnp.minimum(count, steps - select(no_last_phase, 1, 0))
        value: Any = None
        for phase in reversed(range(len(ends))):
            length = ends[phase] - starts[phase]
            left = -since(count, ends[phase]) / select(length == 0, 1, length)
            high, low = values[phase : phase + 2]
            here = low + (high - low) * _STRATEGIES[strategy](left)
            value = (
                here if value is None else jnp.where(count <= ends[phase], here, value)
            )
        return nan_unless(good, value)

    return chained_by(None, schedule)


def check_whole(**values: ArrayLike) -> None:
    """Concrete values must be positive integers."""
    for name, value in values.items():
        if known(value):
            check(
                name,
                value,
                lambda x: (x > 0) & (x == np.floor(x)),
                "a positive integer",
            )
