"""PyTorch's cyclic schedulers."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpy as np

from stabjax._arguments import check, check_choice, is_concrete, nan_unless, select
from stabjax._schedules.counts import as_whole, builder, divmod_count, since
from stabjax._schedules.cycles import cosine_restarts_schedule, cyclic_schedule
from stabjax._schedules.shapes import half_cosine, with_ends
from stabjax._types import Condition, Number, Schedule
from stabjax.compat.torch.chains import Role, in_chain, sets_rate


@in_chain(lambda base_lr, T_max, eta_min=0.0: Role(floor=eta_min))
@builder
def cosine_annealing_lr(
    base_lr: Number, T_max: Number, eta_min: Number = 0.0
) -> Schedule:
    """Returns the schedule of PyTorch's `CosineAnnealingLR`.

        f(t) = E + (L - E) (1 + cos(pi t / T)) / 2

    After step T, the learning rate rises again. In contrast,
    `stabjax.cosine_decay_schedule` is constant after its last step.

    Args:
      base_lr: L, the learning rate of the optimizer. **Traceable.**
      T_max: T in steps, > 0. **Traceable.**
      eta_min: E, the learning rate at step T. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate. It
      is exactly E at T and L at 2 T, and NaN if a traced `T_max` is not > 0.

    Raises:
      ValueError: If a concrete `T_max` is not > 0.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.cosine_annealing_lr(0.8, T_max=10)
      >>> [round(float(schedule(count)), 4) for count in (0, 5, 10, 15, 20)]
      [0.8, 0.4, 0.0, 0.4, 0.8]

    References:
      Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.
      https://arxiv.org/abs/1608.03983
    """
    good = check("T_max", T_max, "> 0")
    steps = select(good, T_max, 1)
    return lambda count: nan_unless(good, cosine_wave(base_lr, eta_min, count, steps))


def cosine_wave(
    high: Number, low: Number, elapsed: Number, half_period: Number
) -> Number:
    """Returns a cosine that is exactly `high` at 0 and `low` half a period later."""
    # Multiplies by 2.0 because twice an int32 may overflow.
    _, position = divmod_count(elapsed, as_whole(2.0 * half_period))
    offset = since(position, half_period)
    value = low + (high - low) * half_cosine(offset / half_period)
    return with_ends(value, high, position == 0, low, offset == 0)


@sets_rate
@builder
def cosine_annealing_warm_restarts(
    base_lr: Number, T_0: Number, T_mult: Number = 1, eta_min: Number = 0.0
) -> Schedule:
    """Returns the schedule of PyTorch's `CosineAnnealingWarmRestarts`.

        f(t) = E + (L - E) (1 + cos(pi c / T_i)) / 2,    T_i = T_0 m^i

    Here c is the number of steps since the last restart. The value never reaches E
    because c = T_i - 1 at the last step of a cycle.

    Args:
      base_lr: L, the learning rate of the optimizer. **Traceable.**
      T_0: length of the first cycle in steps, an integer >= 1. **Traceable.**
      T_mult: m, an integer >= 1. **Traceable.**
      eta_min: E. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate, or
      NaN if a traced argument is out of range. Traced `T_0` and `T_mult` may be
      fractional.

    Raises:
      ValueError: If a concrete `T_0` or `T_mult` is not an integer >= 1.
      TypeError: If an argument is not a number.

    Example:
      >>> from stabjax.compat.torch import cosine_annealing_warm_restarts
      >>> schedule = cosine_annealing_warm_restarts(0.8, T_0=2, T_mult=2)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 4, 6)]
      [0.8, 0.4, 0.8, 0.4, 0.8]

    References:
      Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.
      https://arxiv.org/abs/1608.03983
    """
    good = _check_whole("T_0", T_0) & _check_whole("T_mult", T_mult)
    return cosine_restarts_schedule(
        nan_unless(good, base_lr), T_0, T_mult, end_value=eta_min
    )


@sets_rate
@builder
def cyclic_lr(
    base_lr: Number,
    max_lr: Number,
    step_size_up: Number = 2000,
    step_size_down: Number | None = None,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: Number = 1.0,
    scale_fn: Callable[[Number], Number] | None = None,
    scale_mode: Literal["cycle", "iterations"] = "cycle",
) -> Schedule:
    """Returns the schedule of PyTorch's `CyclicLR`.

        f(t) = L + (M - L) h(t) a(t)

    In each cycle, h rises from 0 to 1 in U steps and falls to 0 in D steps. The scale a
    is 1 (triangular), 2^(1 - k) in cycle k (triangular2), gamma^t (exp_range), or
    `scale_fn`. For the momentum that PyTorch cycles inversely to the learning rate,
    swap its bounds: `cyclic_lr(0.9, 0.8, ...)`.

    Args:
      base_lr: L, the learning rate at the ends of each cycle. **Traceable.**
      max_lr: M, the learning rate at the peak. **Traceable.**
      step_size_up: U in steps, > 0. **Traceable.**
      step_size_down: D in steps, > 0. None means U. **Traceable.**
      mode: scaling mode, ignored if `scale_fn` is given. **Static.**
      gamma: factor for exp_range. **Traceable.**
      scale_fn: a function that JAX can trace. Its values are **traceable**.
      scale_mode: argument of `scale_fn`: the cycle number, counted from 1, or the
        update count. **Static.**

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate, or
      NaN if a traced step size is not > 0.

    Raises:
      ValueError: If a concrete step size is not > 0, or a mode is unknown.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.cyclic_lr(0.1, 0.9, 2, mode="triangular2")
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 4, 6)]
      [0.1, 0.5, 0.9, 0.1, 0.5]

    References:
      Smith, Cyclical Learning Rates for Training Neural Networks, 2017.
      https://arxiv.org/abs/1506.01186
    """
    up, down = step_size_up, step_size_up if step_size_down is None else step_size_down
    check("step_size_up", up, "> 0")
    check("step_size_down", down, "> 0")
    if scale_fn is None:
        check_choice("mode", mode, ["triangular", "triangular2", "exp_range"])
        cycle_factor = 0.5 if mode == "triangular2" else 1.0
        decay_rate = gamma if mode == "exp_range" else 1.0
        return cyclic_schedule(base_lr, max_lr, up, down, cycle_factor, decay_rate)
    check_choice("scale_mode", scale_mode, ["cycle", "iterations"])
    triangle = cyclic_schedule(0.0, 1.0, up, down)

    def schedule(count: Number) -> Number:
        cycle = divmod_count(count, up + down)[0] + 1
        scale = scale_fn(cycle if scale_mode == "cycle" else count)
        return base_lr + (max_lr - base_lr) * triangle(count) * scale

    return schedule


@sets_rate
@builder
def one_cycle_lr(
    max_lr: Number,
    total_steps: Number | None = None,
    epochs: Number | None = None,
    steps_per_epoch: Number | None = None,
    pct_start: Number = 0.3,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    *,
    div_factor: Number = 25.0,
    final_div_factor: Number = 1e4,
    three_phase: bool = False,
) -> Schedule:
    """Returns the schedule of PyTorch's `OneCycleLR`.

        M/d -> M -> M/(d F)           at 0, p T - 1, T - 1
        M/d -> M -> M/d -> M/(d F)    at 0, p T - 1, 2 p T - 2, T - 1  (three_phase)

    Phases are half cosines or linear. Their boundaries are not rounded, so the peak is
    only reached if p T is an integer. The last step is T - 1. At step T, as in PyTorch,
    the schedule overshoots the final value (below 0 for "linear"). After that, PyTorch
    raises an error, and the value at step T - 1 is returned here. Phases without steps,
    for which PyTorch divides by zero, are omitted. For the momentum that PyTorch cycles
    inversely to the learning rate, from 0.95 to 0.85 and back, use `one_cycle_lr(0.85,
    ..., div_factor=0.85 / 0.95, final_div_factor=1)`.

    Args:
      max_lr: M, the peak. **Traceable.**
      total_steps: T, an integer >= 1, or None. **Traceable.**
      epochs: T / `steps_per_epoch`, used if `total_steps` is None. **Traceable.**
      steps_per_epoch: an integer >= 1, or None. **Traceable.**
      pct_start: p, in [0, 1]. **Traceable.**
      anneal_strategy: shape of the phases. **Static.**
      div_factor: d, > 0. **Traceable.**
      final_div_factor: F, > 0. **Traceable.**
      three_phase: whether to decay to M/d before the final decay. **Static.**

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate, or
      NaN if a traced argument is out of range. Traced steps may be fractional.

    Raises:
      ValueError: If a concrete argument is out of range, or the number of steps is
        missing.
      TypeError: If an argument is not a number.

    Example:
      >>> from stabjax.compat.torch import one_cycle_lr
      >>> schedule = one_cycle_lr(1.0, total_steps=10, pct_start=0.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 2, 4, 9)]
      [0.04, 0.52, 1.0, 0.0]

    References:
      Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks Using
      Large Learning Rates, 2017. https://arxiv.org/abs/1708.07120
    """
    steps, good = _total_steps(total_steps, epochs, steps_per_epoch)
    good &= check("div_factor", div_factor, "> 0")
    good &= check("final_div_factor", final_div_factor, "> 0")
    good &= check("pct_start", pct_start, "in [0, 1]")
    check_choice("anneal_strategy", anneal_strategy, ["cos", "linear"])
    low = nan_unless(good, max_lr) / div_factor
    values = [low, max_lr, *[low] * three_phase, low / final_div_factor]
    # As in PyTorch, the first two of three phases have the same length.
    peak = pct_start * steps - 1
    boundaries = [0, peak, *[2 * peak] * three_phase, steps - 1]
    no_last_phase = boundaries[-1] == boundaries[-2]

    def schedule(count: Number) -> Number:
        too_late = since(count, steps) > 0
        count = jnp.minimum(count, steps - select(too_late | no_last_phase, 1, 0))
        value: Number = jnp.nan
        for phase in reversed(range(len(values) - 1)):
            start, end = boundaries[phase : phase + 2]
            length = select(end == start, 1, end - start)
            left = -since(count, end) / length
            height = half_cosine(left) if anneal_strategy == "cos" else left
            high, low = values[phase : phase + 2]
            on_the_way = low + (high - low) * height
            elapsed, over = since(count, start), since(count, end)
            here = with_ends(on_the_way, high, elapsed <= 0, low, over >= 0)
            if phase == len(values) - 2:
                value = jnp.where(over > 0, on_the_way, here)  # PyTorch's overshoot
            else:
                value = jnp.where(over <= 0, here, value)
        return nan_unless(good, value)

    return schedule


def _total_steps(
    total_steps: Number | None, epochs: Number | None, steps_per_epoch: Number | None
) -> tuple[Number, Condition]:
    """Returns the number of steps, and whether it is valid."""
    if total_steps is not None:
        return total_steps, _check_whole("total_steps", total_steps)
    if epochs is None or steps_per_epoch is None:
        raise ValueError(
            "total_steps, or both epochs and steps_per_epoch, must be given, got "
            f"epochs={epochs!r} and steps_per_epoch={steps_per_epoch!r}."
        )
    good = _check_whole("epochs", epochs)
    good &= _check_whole("steps_per_epoch", steps_per_epoch)
    return as_whole(1.0 * epochs * steps_per_epoch), good


def _check_whole(name: str, value: Number) -> Condition:
    if is_concrete(value) and not np.all((value >= 1) & (value == np.floor(value))):
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}.")
    return check(name, value, "> 0")
