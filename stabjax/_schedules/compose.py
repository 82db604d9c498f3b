"""Schedules of schedules: joined, warmed up, restarted."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import optax

from stabjax._schedules.arguments import (
    ArrayLike,
    builder,
    known,
    nan_unless,
    select,
    since,
    standard_promotion,
)
from stabjax._schedules.core import (
    cosine_decay_schedule,
    exponential_decay,
    linear_schedule,
)


def join_schedules(
    schedules: Sequence[optax.Schedule], boundaries: Sequence[ArrayLike] | ArrayLike
) -> optax.Schedule:
    r"""One schedule after another, each with a count of its own.

    .. math:: f(t) = s_i(t - b_i) \quad \text{for the last } i \text{ with } t \ge b_i,

    and :math:`s_0(t)` before the first boundary. A boundary belongs to the schedule
    that it begins, and between two equal ones a schedule is skipped.

    Args:
      schedules: functions of the count. Each is evaluated at every count: its own count
        while it is the current one, and 1 otherwise, so that whatever it does elsewhere
        harms neither the value nor a derivative.
      boundaries: steps at which the second, third ... schedule begins, in ascending
        order: a sequence or an array. How many is static, the steps are traceable.
        Counts beyond 2**24 are subtracted exactly if they have no fraction.

    Returns:
      A function of the count, of any shape, that returns the value. As in Optax,
      schedules or boundaries too many are ignored.

    Raises:
      ValueError: there is no schedule.

    Example:
      >>> import stabjax
      >>> up = stabjax.linear_schedule(0.0, 1.0, 4)
      >>> down = stabjax.exponential_decay(0.5, 2, 0.5)
      >>> schedule = stabjax.join_schedules([up, down], [4])
      >>> [float(schedule(count)) for count in (0, 3, 4, 6, 8)]
      [0.0, 0.75, 0.5, 0.25, 0.125]

    Source: Optax's function of this name.
    """
    pieces = tuple(schedules)
    if not pieces:
        raise ValueError("schedules must hold at least one schedule, got none.")
    starts = tuple(boundaries)[: len(pieces) - 1]

    def schedule(count: ArrayLike) -> ArrayLike:
        current, own_counts = _own_counts(count, starts)
        # Outside standard promotion: how strict these are is the user's affair.
        values = [piece(own) for piece, own in zip(pieces, own_counts, strict=False)]
        return _pick(current, values)

    return schedule


@standard_promotion
def _own_counts(
    count: ArrayLike, starts: Sequence[ArrayLike]
) -> tuple[ArrayLike, list[ArrayLike]]:
    """Which schedule is the current one, and the count that each is to see."""
    current: ArrayLike = 0
    for index, start in enumerate(starts, 1):
        current = select(since(count, start) < 0, current, index)
    own_counts = [count, *(since(count, start) for start in starts)]
    # Not 0: there roots and logarithms have no derivative.
    return current, [
        select(current == index, own, 1) for index, own in enumerate(own_counts)
    ]


@standard_promotion
def _pick(current: ArrayLike, values: Sequence[ArrayLike]) -> ArrayLike:
    picked = values[0]
    for index, value in enumerate(values[1:], 1):
        picked = jnp.where(current == index, value, picked)
    return picked


@builder
def warmup_constant_schedule(
    init_value: ArrayLike, peak_value: ArrayLike, warmup_steps: ArrayLike
) -> optax.Schedule:
    r"""A linear warm-up, and then the peak.

    .. math:: f(t) = I + (P - I) \min(t, W) / W

    Args:
      init_value: :math:`I`, the value at step 0. Traceable.
      peak_value: :math:`P`, the value from step W on. Traceable.
      warmup_steps: :math:`W` in steps; zero or less stays at `init_value` for ever, as
        in Optax, and not at the peak. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.warmup_constant_schedule(0.0, 1.0, warmup_steps=4)
      >>> [float(schedule(count)) for count in (0, 1, 4, 50)]
      [0.0, 0.25, 1.0, 1.0]

    Source: Optax's schedule of this name.
    """
    return linear_schedule(init_value, peak_value, warmup_steps)


@builder
def warmup_cosine_decay_schedule(
    init_value: ArrayLike,
    peak_value: ArrayLike,
    warmup_steps: ArrayLike,
    decay_steps: ArrayLike,
    end_value: ArrayLike = 0.0,
    exponent: ArrayLike = 1.0,
) -> optax.Schedule:
    r"""A linear warm-up, and then half a wave of the cosine down to the end value.

    .. math::
        f(t) = \begin{cases} I + (P - I)\,t / W & t < W \\
        E + (P - E) \left( \frac{1 + \cos(\pi q)}{2} \right)^p & t \ge W \end{cases}
        \qquad q = \min\left(\frac{t - W}{T - W}, 1\right)

    Args:
      init_value: :math:`I`, the value at step 0. Traceable.
      peak_value: :math:`P`, the value at step W; if it is 0, the value stays 0 from
        there on, whatever `end_value` is. Traceable.
      warmup_steps: :math:`W` in steps; 0 starts at the peak. Traceable.
      decay_steps: :math:`T` in steps, the whole length, warm-up included. Traceable.
      end_value: :math:`E`, the value from step T on. Traceable.
      exponent: :math:`p`. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if steps
      were traced and `decay_steps` is not greater than `warmup_steps`.

    Raises:
      ValueError: concrete `decay_steps` are not greater than `warmup_steps`.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.warmup_cosine_decay_schedule(0.0, 1.0, 4, 12, 0.1)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 4, 8, 12, 50)]
      [0.0, 0.25, 1.0, 0.55, 0.1, 0.1]

    Source: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts,
    2017 (arXiv 1608.03983); the linear warm-up is Optax's.
    """
    good = _longer_than_warmup(decay_steps, warmup_steps)
    no_peak = peak_value == 0
    return join_schedules(
        [
            linear_schedule(nan_unless(good, init_value), peak_value, warmup_steps),
            cosine_decay_schedule(
                init_value=peak_value,
                decay_steps=decay_steps - warmup_steps,
                alpha=select(no_peak, 0.0, end_value / select(no_peak, 1, peak_value)),
                exponent=exponent,
            ),
        ],
        [warmup_steps],
    )


def _longer_than_warmup(decay_steps: ArrayLike, warmup_steps: ArrayLike) -> ArrayLike:
    """Whether something is left to decay; what is concrete raises at once."""
    if not known(decay_steps, warmup_steps):
        return decay_steps > warmup_steps
    if not np.all(np.asarray(decay_steps) > np.asarray(warmup_steps)):
        raise ValueError(
            "decay_steps must be greater than warmup_steps, which they include, got "
            f"decay_steps={decay_steps} and warmup_steps={warmup_steps}."
        )
    return True


@builder
def warmup_exponential_decay_schedule(
    init_value: ArrayLike,
    peak_value: ArrayLike,
    warmup_steps: ArrayLike,
    transition_steps: ArrayLike,
    decay_rate: ArrayLike,
    transition_begin: ArrayLike = 0,
    staircase: bool = False,
    end_value: ArrayLike | None = None,
) -> optax.Schedule:
    r"""A linear warm-up, and then an exponential decay.

    .. math::
        f(t) = \begin{cases} I + (P - I)\,t / W & t < W \\
        P\,r^q & t \ge W \end{cases} \qquad q = \max(t - W - B, 0) / T

    with stairs and a bound as in :func:`exponential_decay`.

    Args:
      init_value: :math:`I`, the value at step 0. Traceable.
      peak_value: :math:`P`, the value at step W. Traceable.
      warmup_steps: :math:`W` in steps; 0 starts at the peak. Traceable.
      transition_steps: :math:`T` in steps; zero or less holds the peak. Traceable.
      decay_rate: :math:`r`; zero holds the peak. Traceable.
      transition_begin: :math:`B` in steps, counted from the end of the warm-up; a
        negative one counts as 0. Traceable.
      staircase: whether to take whole transitions only. Static.
      end_value: the bound after the warm-up, lower if r < 1, else upper; or None.
        Traceable.

    Returns:
      A function of the count, of any shape, that returns the value.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.warmup_exponential_decay_schedule(0.0, 1.0, 4, 2, 0.5)
      >>> [float(schedule(count)) for count in (0, 1, 4, 6, 8)]
      [0.0, 0.25, 1.0, 0.5, 0.25]

    Source: Optax's schedule of this name.
    """
    warmup = linear_schedule(init_value, peak_value, warmup_steps)
    decay = exponential_decay(
        peak_value,
        transition_steps,
        decay_rate,
        transition_begin,
        staircase,
        end_value,
    )
    return join_schedules([warmup, decay], [warmup_steps])


@builder
def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, ArrayLike]]) -> optax.Schedule:
    r"""Cosine decay with warm restarts.

    .. math::
        f(t) = s_i(t - b_i) \quad \text{for } b_i \le t < b_{i+1} = b_i + T_i

    with :math:`s_i` the :func:`warmup_cosine_decay_schedule` of cycle i and
    :math:`b_0 = 0`; the last cycle holds its end value.

    Args:
      cosine_kwargs: for each cycle a dict of the arguments of
        :func:`warmup_cosine_decay_schedule`; its `decay_steps` are the length
        :math:`T_i` of the cycle, in steps. How many cycles is static, what their
        arguments say is traceable.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN during a
      cycle whose traced `decay_steps` are not greater than its `warmup_steps`.

    Raises:
      ValueError: there is no cycle, or one's concrete steps leave nothing to decay.

    Example:
      >>> import stabjax
      >>> cycle = dict(init_value=0.0, warmup_steps=2, decay_steps=6)
      >>> schedule = stabjax.sgdr_schedule(cycle | dict(peak_value=p) for p in (1, 0.5))
      >>> [round(float(schedule(count)), 4) for count in (0, 2, 4, 6, 8, 10, 12)]
      [0.0, 1.0, 0.5, 0.0, 0.5, 0.25, 0.0]

    Source: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts,
    2017 (arXiv 1608.03983).
    """
    cycles = [dict(kwargs) for kwargs in cosine_kwargs]
    if not cycles:
        raise ValueError("cosine_kwargs must describe at least one cycle, got none.")
    schedules = [warmup_cosine_decay_schedule(**cycle) for cycle in cycles]
    ends = itertools.accumulate(cycle["decay_steps"] for cycle in cycles)
    return join_schedules(schedules, [*ends][:-1])
