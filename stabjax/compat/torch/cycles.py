"""PyTorch's schedulers that come back, for the rate and for the momentum."""

from collections.abc import Callable, Mapping

import optax

from stabjax._schedules.arguments import (
    ArrayLike,
    builder,
    check,
    check_positive,
    divmod_count,
    nan_unless,
)
from stabjax._schedules.cycles import cosine_restarts_schedule, cyclic_schedule
from stabjax.compat.torch.chains import chained_by
from stabjax.compat.torch.one_cycle import check_whole

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
      the rate, and NaN if an argument was traced and is not allowed. Traced, `T_0` and
      `T_mult` may have fractions.

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
    check_whole(T_0=T_0, T_mult=T_mult)
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
