"""Composed schedules: joined, with warmup, or with restarts."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._arguments import as_number, is_concrete, nan_unless, select
from stabjax._schedules.counts import builder, since
from stabjax._schedules.decays import cosine_decay, exponential_decay, linear_schedule
from stabjax._types import Condition, Number, Schedule


@builder
def join_schedules(
    schedules: Sequence[Schedule],
    boundaries: Sequence[Number] | jax.Array | np.ndarray,
) -> Schedule:
    """Joins schedules in sequence. The count of each schedule starts at 0.

        f(t) = s_i(t - b_i)    for the last i with t >= b_i,  and s_0(t) before b_1

    At a boundary, the later schedule is used. A schedule between two equal boundaries
    is skipped.

    Args:
      schedules: functions of the count. Inactive schedules are evaluated at count 1,
        which keeps their values and derivatives elsewhere from affecting the result.
      boundaries: the steps b_i at which the schedules after the first begin, in
        ascending order. Their number is **static** and their values are **traceable**.
        Integer counts above 2**24 are exact for boundaries without a fraction.

    Returns:
      A function of the count (a scalar or an array) that returns the value. Extra
      schedules or boundaries are ignored, as in Optax.

    Raises:
      ValueError: If `schedules` is empty, or concrete boundaries are not in ascending
        order.
      TypeError: If a boundary is not a number.

    Example:
      >>> import stabjax
      >>> up = stabjax.linear_schedule(0.0, 1.0, 4)
      >>> down = stabjax.exponential_decay(0.5, 2, 0.5)
      >>> schedule = stabjax.join_schedules([up, down], [4])
      >>> [float(schedule(count)) for count in (0, 3, 4, 6, 8)]
      [0.0, 0.75, 0.5, 0.25, 0.125]
    """
    pieces = tuple(schedules)
    if not pieces:
        raise ValueError("schedules must contain at least one schedule, got none.")
    starts = [as_number("each boundary", b) for b in boundaries][: len(pieces) - 1]
    if is_concrete(*starts) and any(a > b for a, b in itertools.pairwise(starts)):
        raise ValueError(f"boundaries must be in ascending order, got {boundaries!r}.")

    def schedule(count: Number) -> Number:
        active: Number = 0
        for index, start in enumerate(starts, 1):
            active = select(since(count, start) < 0, active, index)
        own_counts = [count, *(since(count, start) for start in starts)]
        value: Number = jnp.nan
        for index, (piece, own) in enumerate(zip(pieces, own_counts, strict=False)):
            # Many roots and logarithms have no derivative at 0, so this uses 1.
            piece_value = piece(select(active == index, own, 1))
            value = (
                piece_value
                if index == 0
                else (jnp.where(active == index, piece_value, value))
            )
        return value

    return schedule


@builder
def warmup_constant_schedule(
    init_value: Number, peak_value: Number, warmup_steps: Number
) -> Schedule:
    """Returns a linear warmup to a constant value.

        f(t) = I + (P - I) min(t, W) / W

    Args:
      init_value: I, the value at step 0. **Traceable.**
      peak_value: P, the value from step W onwards. **Traceable.**
      warmup_steps: W in steps. If <= 0, the value is always `init_value`, as in Optax.
        **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value.

    Raises:
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.warmup_constant_schedule(0.0, 1.0, warmup_steps=4)
      >>> [float(schedule(count)) for count in (0, 1, 4, 50)]
      [0.0, 0.25, 1.0, 1.0]
    """
    return linear_schedule(init_value, peak_value, warmup_steps)


@builder
def warmup_cosine_decay_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: Number,
    decay_steps: Number,
    end_value: Number = 0.0,
    exponent: Number = 1.0,
) -> Schedule:
    """Returns a linear warmup followed by a half-cosine decay.

        f(t) = I + (P - I) t / W                        for t < W
        f(t) = E + (P - E) ((1 + cos(pi q)) / 2)^p      for t >= W
        q = min((t - W) / (T - W), 1)

    Args:
      init_value: I, the value at step 0. **Traceable.**
      peak_value: P, the value at step W. If P is 0, the value remains 0 even if
        `end_value` is not 0. **Traceable.**
      warmup_steps: W in steps. Use 0 to start at the peak. **Traceable.**
      decay_steps: T in steps, the total length including the warmup. **Traceable.**
      end_value: E, the exact value from step T onwards. **Traceable.**
      exponent: p. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value. It returns
      NaN if steps are traced and `decay_steps` is not greater than `warmup_steps`.

    Raises:
      ValueError: If steps are concrete and `decay_steps` is not greater than
        `warmup_steps`.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.warmup_cosine_decay_schedule(0.0, 1.0, 4, 12, 0.1)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 4, 8, 12, 50)]
      [0.0, 0.25, 1.0, 0.55, 0.1, 0.1]

    References:
      Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.
      https://arxiv.org/abs/1608.03983
    """
    good = _longer_than_warmup(decay_steps, warmup_steps)
    no_peak = peak_value == 0
    warmup = linear_schedule(nan_unless(good, init_value), peak_value, warmup_steps)
    decay = cosine_decay(
        peak_value,
        decay_steps - warmup_steps,
        select(no_peak, 0.0, end_value / select(no_peak, 1, peak_value)),
        exponent,
        select(no_peak, 0.0, end_value),
    )
    return join_schedules([warmup, decay], [warmup_steps])


def _longer_than_warmup(decay_steps: Number, warmup_steps: Number) -> Condition:
    """Returns whether there are decay steps, or raises if concrete steps leave none."""
    longer = decay_steps > warmup_steps
    if is_concrete(longer) and not np.all(longer):
        raise ValueError(
            "decay_steps must be greater than warmup_steps because it includes them, "
            f"got decay_steps={decay_steps} and warmup_steps={warmup_steps}."
        )
    return longer


@builder
def warmup_exponential_decay_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: Number,
    transition_steps: Number,
    decay_rate: Number,
    transition_begin: Number = 0,
    staircase: bool = False,
    end_value: Number | None = None,
) -> Schedule:
    """Returns a linear warmup followed by an exponential decay.

        f(t) = I + (P - I) t / W    for t < W
        f(t) = P r^q                for t >= W,    q = max(t - W - B, 0) / T

    `staircase` and `end_value` work as in `exponential_decay`.

    Args:
      init_value: I, the value at step 0. **Traceable.**
      peak_value: P, the value at step W. **Traceable.**
      warmup_steps: W in steps. Use 0 to start at the peak. **Traceable.**
      transition_steps: T in steps. If <= 0, the value stays at the peak. **Traceable.**
      decay_rate: r. If 0, the value stays at the peak. **Traceable.**
      transition_begin: B in steps, counted from the end of the warmup. Negative values
        count as 0. **Traceable.**
      staircase: whether to round q down. **Static.**
      end_value: bound after the warmup, or None. It is a lower bound if r < 1 and an
        upper bound otherwise. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value.

    Raises:
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.warmup_exponential_decay_schedule(0.0, 1.0, 4, 2, 0.5)
      >>> [float(schedule(count)) for count in (0, 1, 4, 6, 8)]
      [0.0, 0.25, 1.0, 0.5, 0.25]
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
def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Number]]) -> Schedule:
    """Returns a cosine decay with warm restarts.

        f(t) = s_i(t - b_i)    for b_i <= t < b_{i+1} = b_i + T_i,    b_0 = 0

    Here s_i is the `warmup_cosine_decay_schedule` of cycle i. After the last cycle, the
    value stays at the end value of that cycle.

    Args:
      cosine_kwargs: for each cycle, a dict of arguments for
        `warmup_cosine_decay_schedule`. Its `decay_steps` is the cycle length T_i in
        steps. The number of cycles is **static** and the values are **traceable**.

    Returns:
      A function of the count (a scalar or an array) that returns the value. It returns
      NaN in cycles whose traced `decay_steps` is not greater than `warmup_steps`.

    Raises:
      ValueError: If there are no cycles, or a concrete `decay_steps` is not greater
        than `warmup_steps`.

    Example:
      >>> import stabjax
      >>> cycle = dict(init_value=0.0, warmup_steps=2, decay_steps=6)
      >>> schedule = stabjax.sgdr_schedule(cycle | dict(peak_value=p) for p in (1, 0.5))
      >>> [round(float(schedule(count)), 4) for count in (0, 2, 4, 6, 8, 10, 12)]
      [0.0, 1.0, 0.5, 0.0, 0.5, 0.25, 0.0]

    References:
      Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.
      https://arxiv.org/abs/1608.03983
    """
    cycles = [dict(kwargs) for kwargs in cosine_kwargs]
    if not cycles:
        raise ValueError("cosine_kwargs must contain at least one cycle, got none.")
    schedules = [warmup_cosine_decay_schedule(**cycle) for cycle in cycles]
    lengths = [as_number("decay_steps", cycle["decay_steps"]) for cycle in cycles]
    return join_schedules(schedules, [*itertools.accumulate(lengths)][:-1])
