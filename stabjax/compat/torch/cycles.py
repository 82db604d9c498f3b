"""PyTorch's schedulers that go up and down, for the rate and for the momentum."""

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
    divmod_count,
    known,
    nan_unless,
    select,
    since,
)
from stabjax._schedules.cycles import cosine_restarts_schedule, cyclic_schedule
from stabjax._schedules.shapes import half_wave
from stabjax.compat.torch.chains import chained_by

# From the number of a cycle, or of the steps, to a factor of its height.
Scale = Callable[[ArrayLike], ArrayLike]


@builder
def cosine_annealing_warm_restarts(
    base_lr: ArrayLike,
    T_0: ArrayLike,
    T_mult: ArrayLike = 1,
    eta_min: ArrayLike = 0.0,
) -> optax.Schedule:
    r"""Half waves of the cosine, restarted for ever.

    .. math::
        f(t) = E + (L - E)\,\frac{1 + \cos(\pi c / T_i)}{2}, \qquad T_i = T_0 m^i

    with :math:`c` the steps since the last restart. The end itself is never reached:
    the last step of a cycle has :math:`c = T_i - 1`.

    Args:
      base_lr: :math:`L`, the learning rate of the optimizer. Traceable.
      T_0: :math:`T_0` in steps, a positive integer. Traceable.
      T_mult: :math:`m`, an integer of at least 1. Traceable.
      eta_min: :math:`E`. Traceable.

    Returns:
      A function of the count, of any shape and with fractions if need be, that returns
      the rate, and NaN if an argument was traced and is not allowed; a fraction in `T_0`
      or `T_mult` is, there.

    Raises:
      ValueError: a concrete `T_0` or `T_mult` is not allowed.

    Example:
      >>> from stabjax.compat.torch import cosine_annealing_warm_restarts
      >>> schedule = cosine_annealing_warm_restarts(0.8, T_0=2, T_mult=2)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 4, 6)]
      [0.8, 0.4, 0.8, 0.4, 0.8]

    Source: PyTorch's `CosineAnnealingWarmRestarts`; Loshchilov and Hutter, SGDR:
    Stochastic Gradient Descent with Warm Restarts, 2017 (arXiv 1608.03983).
    """
    _check_whole(T_0=T_0, T_mult=T_mult)
    good = check_positive(T_0=T_0)
    good &= check("T_mult", T_mult, lambda x: x >= 1, "1 or greater")
    restarts = cosine_restarts_schedule(
        nan_unless(good, base_lr), T_0, T_mult, end_value=eta_min
    )
    return chained_by(None, restarts)


@builder
def cyclic_lr(
    base_lr: ArrayLike,
    max_lr: ArrayLike,
    step_size_up: ArrayLike = 2000,
    step_size_down: ArrayLike | None = None,
    mode: str = "triangular",
    gamma: ArrayLike = 1.0,
    scale_fn: Scale | None = None,
    scale_mode: str = "cycle",
) -> optax.Schedule:
    r"""Up and down between two rates in straight lines, again and again.

    .. math:: f(t) = L + (M - L)\,h(t)\,a(t)

    with :math:`h` going from 0 to 1 in U steps and back in D, and with :math:`a = 1`
    (triangular), :math:`2^{1 - k}` in the k-th cycle (triangular2), :math:`\gamma^t`
    (exp_range) or :math:`a = s(k)` or :math:`s(t)` for a function of one's own.

    Args:
      base_lr: :math:`L`, the least rate. Traceable.
      max_lr: :math:`M`, the greatest. Traceable.
      step_size_up: :math:`U` in steps, positive. Traceable.
      step_size_down: :math:`D` in steps, positive; U if None. Traceable.
      mode: `"triangular"`, `"triangular2"` or `"exp_range"`. Static.
      gamma: :math:`\gamma`. Traceable.
      scale_fn: :math:`s`, a function that JAX can trace, instead of a mode; or None.
      scale_mode: `"cycle"` or `"iterations"`: whether :math:`s` takes the number of the
        cycle, from 1, or the count. Static.

    Returns:
      A function of the count, of any shape, that returns the rate, and NaN if a size
      was traced and is not positive. The momentum that PyTorch cycles along with it is
      :func:`cyclic_momentum`.

    Raises:
      ValueError: a concrete size is not positive; an unknown mode.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.cyclic_lr(0.1, 0.9, 2, mode="triangular2")
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 4, 6)]
      [0.1, 0.5, 0.9, 0.1, 0.5]

    Source: PyTorch's `CyclicLR`; Smith, Cyclical Learning Rates for Training Neural
    Networks, 2017 (arXiv 1506.01186).
    """
    sizes = _sizes(step_size_up, step_size_down)
    scale = _scale(sizes, mode, gamma, scale_fn, scale_mode)
    return _cyclic((base_lr, max_lr), sizes, scale)


@builder
def cyclic_momentum(
    step_size_up: ArrayLike = 2000,
    step_size_down: ArrayLike | None = None,
    mode: str = "triangular",
    gamma: ArrayLike = 1.0,
    scale_fn: Scale | None = None,
    scale_mode: str = "cycle",
    base_momentum: ArrayLike = 0.8,
    max_momentum: ArrayLike = 0.9,
) -> optax.Schedule:
    r"""The momentum that goes down where :func:`cyclic_lr` goes up.

    .. math:: f(t) = M - (M - m)\,h(t)\,a(t)

    with :math:`h` and :math:`a` those of :func:`cyclic_lr`.

    Args:
      step_size_up: as of :func:`cyclic_lr`, like all up to `scale_mode`. Traceable.
      step_size_down: likewise. Traceable.
      mode: likewise. Static.
      gamma: likewise. Traceable.
      scale_fn: likewise.
      scale_mode: likewise. Static.
      base_momentum: :math:`m`, the momentum at the peak of the rate. Traceable.
      max_momentum: :math:`M`, the momentum at the least rate. Traceable.

    Returns:
      A function of the count, of any shape, that returns the momentum: for
      `optax.inject_hyperparams(optax.sgd)`, or Adam's `b1`.

    Raises:
      ValueError: a concrete size is not positive; an unknown mode.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.cyclic_momentum(2)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 4)]
      [0.9, 0.85, 0.8, 0.9]

    Source: PyTorch's `CyclicLR` with `cycle_momentum=True`.
    """
    sizes = _sizes(step_size_up, step_size_down)
    scale = _scale(sizes, mode, gamma, scale_fn, scale_mode)
    return _cyclic((max_momentum, base_momentum), sizes, scale)


def _sizes(
    step_size_up: ArrayLike, step_size_down: ArrayLike | None
) -> tuple[ArrayLike, ArrayLike]:
    down = step_size_up if step_size_down is None else step_size_down
    check_positive(step_size_up=step_size_up, step_size_down=down)
    return step_size_up, down


# The argument of cyclic_schedule that makes a mode, from gamma.
_MODES: Mapping[str, Callable[[ArrayLike], dict[str, ArrayLike]]] = {
    "triangular": lambda gamma: {},
    "triangular2": lambda gamma: {"cycle_factor": 0.5},
    "exp_range": lambda gamma: {"decay_rate": gamma},
}


def _scale(
    sizes: tuple[ArrayLike, ArrayLike],
    mode: str,
    gamma: ArrayLike,
    scale_fn: Scale | None,
    scale_mode: str,
) -> Scale | dict[str, ArrayLike]:
    """A factor of the height: a function of the count, or what makes a known mode."""
    if scale_fn is None:
        if mode not in _MODES:
            names = ", ".join(map(repr, _MODES))
            raise ValueError(f"mode must be one of {names}, got {mode!r}.")
        return _MODES[mode](gamma)
    if scale_mode not in ("cycle", "iterations"):
        raise ValueError(
            f"scale_mode must be 'cycle' or 'iterations', got {scale_mode!r}."
        )
    if scale_mode == "iterations":
        return scale_fn
    return lambda count: scale_fn(divmod_count(count, sizes[0] + sizes[1])[0] + 1)


def _cyclic(
    ends: tuple[ArrayLike, ArrayLike],
    sizes: tuple[ArrayLike, ArrayLike],
    scale: Scale | dict[str, ArrayLike],
) -> optax.Schedule:
    low, high = ends
    if not callable(scale):
        return chained_by(None, cyclic_schedule(low, high, *sizes, **scale))
    triangle = cyclic_schedule(0.0, 1.0, *sizes)
    return chained_by(
        None, lambda count: low + (high - low) * triangle(count) * scale(count)
    )


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
      argument was traced and is not allowed; a fraction in the steps is, there. The
      momentum that PyTorch cycles along with it is :func:`one_cycle_momentum`.

    Raises:
      ValueError: a concrete argument is not allowed, or the steps are not given.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.one_cycle_lr(1.0, total_steps=10, pct_start=0.5)
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
        _check_whole(total_steps=total_steps)
        return total_steps
    if epochs is None or steps_per_epoch is None:
        raise ValueError(
            "total_steps must be given, or epochs and steps_per_epoch, got "
            f"epochs={epochs} and steps_per_epoch={steps_per_epoch}."
        )
    _check_whole(epochs=epochs, steps_per_epoch=steps_per_epoch)
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
        raise ValueError(f"anneal_strategy must be 'cos' or 'linear', got {strategy!r}.")
    good = check_positive(total_steps=steps)
    good &= check("pct_start", pct_start, lambda x: (x >= 0) & (x <= 1), "between 0 and 1")
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
            value = here if value is None else jnp.where(count <= ends[phase], here, value)
        return nan_unless(good, value)

    return chained_by(None, schedule)


def _check_whole(**values: ArrayLike) -> None:
    """Concrete values must be positive integers."""
    for name, value in values.items():
        if known(value):
            check(name, value, lambda x: (x > 0) & (x == np.floor(x)), "a positive integer")
