"""timm's schedulers that restart, if they are told to."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from stabjax._schedules.arguments import (
    ArrayLike,
    builder,
    check,
    check_positive,
    known,
    nan_unless,
    select,
)
from stabjax._schedules.cycles import cycle_of
from stabjax._schedules.cycles import power as power_of
from stabjax._schedules.shapes import half_wave
from stabjax.compat.timm.warmup import warmed_up


@builder
def cosine_lr_scheduler(
    base_lr: ArrayLike,
    t_initial: ArrayLike,
    lr_min: ArrayLike = 0.0,
    cycle_mul: ArrayLike = 1.0,
    cycle_decay: ArrayLike = 1.0,
    cycle_limit: ArrayLike = 1,
    warmup_t: ArrayLike = 0,
    warmup_lr_init: ArrayLike = 0.0,
    warmup_prefix: bool = False,
    *,
    k_decay: ArrayLike = 1.0,
) -> optax.Schedule:
    r"""Half waves of the cosine in some cycles, with a warm-up.

    .. math:: f(t) = E + (L d^i - E)\,\frac{1 + \cos(\pi q^k)}{2}, \qquad q = c / T_i

    with :math:`c` the steps in cycle i, of :math:`T_i = T m^i` steps, and :math:`E`
    after the last cycle. In the warm-up, t < W, a straight line to L; after it the
    cycles are at step t, as if there had been none, or at t - W with `warmup_prefix`.

    Args:
      base_lr: :math:`L`, the learning rate of the optimizer. Traceable.
      t_initial: :math:`T`, the steps of the first cycle, positive. Traceable.
      lr_min: :math:`E`, zero or greater. Traceable.
      cycle_mul: :math:`m`, 1 or greater. Traceable.
      cycle_decay: :math:`d`, what is left of the peak from cycle to cycle. Traceable.
      cycle_limit: how many cycles there are. Traceable.
      warmup_t: :math:`W` in steps. Traceable.
      warmup_lr_init: the rate at step 0 of a warm-up. Traceable.
      warmup_prefix: whether the cycles begin after the warm-up. Static.
      k_decay: :math:`k`, positive. Traceable.

    Returns:
      A function of the count, of any shape, that returns the rate, and NaN if a number
      was traced and is not allowed.

    Raises:
      ValueError: a concrete number is not allowed.

    Example:
      >>> from stabjax.compat.timm import cosine_lr_scheduler
      >>> schedule = cosine_lr_scheduler(0.8, 10, warmup_t=2, warmup_prefix=True)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 7, 12)]
      [0.0, 0.4, 0.8, 0.4, 0.0]

    Source: timm's `CosineLRScheduler`; Loshchilov and Hutter, SGDR: Stochastic Gradient
    Descent with Warm Restarts, 2017 (arXiv 1608.03983); Zhang and Li, k-decay: A New
    Method For Learning Rate Schedule, 2020 (arXiv 2004.05909).
    """
    cycles = _cycles(
        (base_lr, lr_min),
        lambda q: half_wave(1 - power_of_share(q, k_decay)),
        t_initial,
        cycle_mul,
        cycle_decay,
        cycle_limit,
    )
    return warmed_up(cycles, base_lr, warmup_t, warmup_lr_init, warmup_prefix)


@builder
def tanh_lr_scheduler(
    base_lr: ArrayLike,
    t_initial: ArrayLike,
    lb: ArrayLike = -7.0,
    ub: ArrayLike = 3.0,
    lr_min: ArrayLike = 0.0,
    cycle_mul: ArrayLike = 1.0,
    cycle_decay: ArrayLike = 1.0,
    cycle_limit: ArrayLike = 1,
    warmup_t: ArrayLike = 0,
    warmup_lr_init: ArrayLike = 0.0,
    warmup_prefix: bool = False,
) -> optax.Schedule:
    r"""Down along a hyperbolic tangent in some cycles, with a warm-up.

    .. math::
        f(t) = E + (L d^i - E)\,\frac{1 - \tanh(l (1 - q) + u q)}{2}, \qquad q = c / T_i

    Cycles and warm-up are those of :func:`cosine_lr_scheduler`; but without
    `warmup_prefix` the warm-up goes to the value at W.

    Args:
      base_lr: :math:`L`, the learning rate of the optimizer. Traceable.
      t_initial: :math:`T`, the steps of the first cycle, positive. Traceable.
      lb: :math:`l`, less than `ub`. Traceable.
      ub: :math:`u`. Traceable.
      lr_min: :math:`E`, zero or greater. Traceable.
      cycle_mul: as of :func:`cosine_lr_scheduler`, like all that follow. Traceable.
      cycle_decay: likewise. Traceable.
      cycle_limit: likewise. Traceable.
      warmup_t: likewise. Traceable.
      warmup_lr_init: likewise. Traceable.
      warmup_prefix: likewise. Static.

    Returns:
      A function of the count, of any shape, that returns the rate, and NaN if a number
      was traced and is not allowed.

    Raises:
      ValueError: a concrete number is not allowed.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.timm.tanh_lr_scheduler(0.8, 10)
      >>> [round(float(schedule(count)), 4) for count in (0, 5, 7, 9, 10)]
      [0.8, 0.7856, 0.4, 0.0144, 0.0]

    Source: timm's `TanhLRScheduler`; Hsueh et al., Stochastic Gradient Descent with
    Hyperbolic-Tangent Decay on Classification, 2018 (arXiv 1806.01593).
    """
    good = lb < ub
    if known(lb, ub):
        check("lb", lb, lambda x: x < ub, f"less than ub, which is {ub}")
    cycles = _cycles(
        (nan_unless(good, base_lr), lr_min),
        lambda q: 0.5 * (1 - jnp.tanh(lb * (1 - q) + ub * q)),
        t_initial,
        cycle_mul,
        cycle_decay,
        cycle_limit,
    )
    target = base_lr if warmup_prefix else cycles(warmup_t)
    return warmed_up(cycles, target, warmup_t, warmup_lr_init, warmup_prefix)


@builder
def poly_lr_scheduler(
    base_lr: ArrayLike,
    t_initial: ArrayLike,
    power: ArrayLike = 0.5,
    lr_min: ArrayLike = 0.0,
    cycle_mul: ArrayLike = 1.0,
    cycle_decay: ArrayLike = 1.0,
    cycle_limit: ArrayLike = 1,
    warmup_t: ArrayLike = 0,
    warmup_lr_init: ArrayLike = 0.0,
    warmup_prefix: bool = False,
    *,
    k_decay: ArrayLike = 1.0,
) -> optax.Schedule:
    r"""Down along a power of what is left of a cycle, with a warm-up.

    .. math:: f(t) = E + (L d^i - E)\,(1 - q^k)^p, \qquad q = c / T_i

    Cycles and warm-up are those of :func:`cosine_lr_scheduler`.

    Args:
      base_lr: :math:`L`, the learning rate of the optimizer. Traceable.
      t_initial: :math:`T`, the steps of the first cycle, positive. Traceable.
      power: :math:`p`, positive. Traceable.
      lr_min: :math:`E`, zero or greater. Traceable.
      cycle_mul: as of :func:`cosine_lr_scheduler`, like all that follow. Traceable.
      cycle_decay: likewise. Traceable.
      cycle_limit: likewise. Traceable.
      warmup_t: likewise. Traceable.
      warmup_lr_init: likewise. Traceable.
      warmup_prefix: likewise. Static.
      k_decay: likewise. Traceable.

    Returns:
      A function of the count, of any shape, that returns the rate, and NaN if a number
      was traced and is not allowed.

    Raises:
      ValueError: a concrete number is not allowed.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.timm.poly_lr_scheduler(0.8, 10, power=2)
      >>> [round(float(schedule(count)), 4) for count in (0, 5, 9, 10)]
      [0.8, 0.2, 0.008, 0.0]

    Source: timm's `PolyLRScheduler`.
    """
    cycles = _cycles(
        (base_lr, lr_min),
        lambda q: power_of_share(1 - power_of_share(q, k_decay), power),
        t_initial,
        cycle_mul,
        cycle_decay,
        cycle_limit,
    )
    return warmed_up(cycles, base_lr, warmup_t, warmup_lr_init, warmup_prefix)


def _cycles(
    ends: tuple[ArrayLike, ArrayLike],
    shape: Callable[[ArrayLike], ArrayLike],
    t_initial: ArrayLike,
    cycle_mul: ArrayLike,
    cycle_decay: ArrayLike,
    cycle_limit: ArrayLike,
) -> optax.Schedule:
    """The shape, from 1 to 0 as the share of a cycle goes from 0 to 1, in each."""
    peak, low = ends
    good = check_positive(t_initial=t_initial)
    good &= check("lr_min", low, lambda x: x >= 0, "zero or greater")
    good &= check("cycle_mul", cycle_mul, lambda x: x >= 1, "1 or greater")
    steps = select(good, t_initial, 1)

    def schedule(count: ArrayLike) -> ArrayLike:
        cycle, position = cycle_of(count, steps, cycle_mul)
        high = peak * power_of(cycle_decay, cycle)
        value = low + (high - low) * shape(position / steps)
        return nan_unless(good, jnp.where(cycle < cycle_limit, value, low))

    return schedule


def power_of_share(share: ArrayLike, exponent: ArrayLike) -> ArrayLike:
    """The power of a share, for positive exponents; at 0 it has no derivative."""
    some = share > 0
    return jnp.where(some, jnp.where(some, share, 1) ** exponent, 0)
