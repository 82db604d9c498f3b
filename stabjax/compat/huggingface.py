"""The schedules of Hugging Face transformers, by their names there."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, overload

import jax.numpy as jnp
import numpy as np
import optax

from stabjax._arguments import (
    as_number,
    check_choice,
    is_concrete,
    nan_unless,
    select,
)
from stabjax._schedules.compose import join_schedules
from stabjax._schedules.counts import as_whole, builder, later, since
from stabjax._schedules.decays import (
    constant_schedule,
    linear_schedule,
    polynomial_schedule,
)
from stabjax._schedules.shapes import half_cosine, with_ends
from stabjax._schedules.transformers import inverse_sqrt_schedule
from stabjax._schedules.wrappers import with_cooldown, with_warmup
from stabjax._types import Number, Schedule
from stabjax.compat.greedy import greedy
from stabjax.compat.torch import reduce_lr_on_plateau
from stabjax.compat.torch.cycles import cosine_wave

__all__ = ["get_scheduler"]

_Shape: TypeAlias = Literal["linear", "cosine", "1-sqrt"]
ScheduleName: TypeAlias = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
]
RuleName: TypeAlias = Literal["reduce_lr_on_plateau", "greedy"]
SpecificKwargs: TypeAlias = Mapping[str, Number | str | bool | None]


@overload
def get_scheduler(
    name: ScheduleName,
    learning_rate: Number,
    num_warmup_steps: Number | None = None,
    num_training_steps: Number | None = None,
    scheduler_specific_kwargs: SpecificKwargs | None = None,
) -> Schedule: ...


@overload
def get_scheduler(
    name: RuleName,
    learning_rate: Number,
    num_warmup_steps: Number | None = None,
    num_training_steps: Number | None = None,
    scheduler_specific_kwargs: SpecificKwargs | None = None,
) -> optax.GradientTransformationExtraArgs: ...


def get_scheduler(
    name: ScheduleName | RuleName,
    learning_rate: Number,
    num_warmup_steps: Number | None = None,
    num_training_steps: Number | None = None,
    scheduler_specific_kwargs: SpecificKwargs | None = None,
) -> Schedule | optax.GradientTransformationExtraArgs:
    """Returns the schedule of transformers with this name.

    With the learning rate L, W warmup steps, T training steps including the warmup, and
    p = (t - W) / max(1, T - W), the value is L for `"constant"`. For the others it is
    L t / max(1, W) for t < W, and from W on L times the factor

    - `"constant_with_warmup"`: 1.
    - `"linear"`: max(0, 1 - p).
    - `"cosine"`: (1 + cos(2 pi c p)) / 2 with `num_cycles` c = 1/2. Like the next two
      but one, it rises again after T.
    - `"cosine_with_restarts"`: (1 + cos(pi (c p mod 1))) / 2 up to T, then 0;
      `num_cycles` c = 1. Restarts are where c p is an integer, also where float64
      rounds it (in transformers, from 22 cycles on).
    - `"cosine_with_min_lr"`: m + (1 - m) (1 + cos(2 pi c p)) / 2. Pass m as
      `min_lr_rate`, or L m as `min_lr`.
    - `"cosine_warmup_with_min_lr"`: the same, one step earlier, after a warmup of
      (t + 1) / W, or from `warmup_lr_rate` to 1 in W - 1 steps if it is given.
    - `"polynomial"`: e + (1 - e) (1 - p)^n, and e after T, with `lr_end` L e = 1e-7 and
      `power` n = 1.
    - `"inverse_sqrt"`: sqrt(s / (s + t - W)), with `timescale` s = W; 10000 if W = 0.
    - `"warmup_stable_decay"`: 1 for `num_stable_steps` S = T - W - D, then down to
      `min_lr_ratio` m = 0 in `num_decay_steps` D. `decay_type` is `"linear"`,
      `"cosine"` (default; `num_cycles` c = 1/2) or `"1-sqrt"`, and so is `warmup_type`,
      of a warmup from m to 1.

    Two rules watch a metric and ignore the steps. They are transformations: chain them
    after an optimizer with this learning rate, whose updates they scale. Each update is
    one step, and its extra argument `value` the metric.

    - `"reduce_lr_on_plateau"`: `stabjax.compat.torch.reduce_lr_on_plateau`.
    - `"greedy"`: divides the rate by `factor` = 0.95 (up to `max_lr` = 1) after more
      than `patience` = 10 improvements in a row, and multiplies it by `factor` (down to
      `min_lr` = 1e-3) after more than as many metrics without one. Then `warmup` = 0 or
      `cooldown` = 0 metrics are ignored. An improvement is one by `threshold` = 1e-6
      (`threshold_mode` `"abs"` or `"rel"`, `mode` `"min"` or `"max"`), of the metric
      or, with `smooth`, of the mean of its last `window_size` = 50 values. Changes up
      to `eps` = 1e-8 are skipped. After `reset_start` = 500 reductions at the lowest
      rate the rule restarts. The modes, `smooth` and the window size are static.

    Args:
      name: one of the above. **Static.**
      learning_rate: L, the learning rate of the optimizer. **Traceable.**
      num_warmup_steps: W in steps. **Traceable.**
      num_training_steps: T in steps. **Traceable.**
      scheduler_specific_kwargs: the arguments named above. Types, and which are given,
        are static; all numbers are **traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate, or
      NaN if a traced number is out of its range; a transformation for the last two
      names.

    Raises:
      ValueError: a name or type does not exist, or a number is missing or, if concrete,
        out of its range.
      TypeError: an argument in `scheduler_specific_kwargs` does not belong to the
        schedule, or an argument is not a number.

    Example:
      >>> from stabjax.compat.huggingface import get_scheduler
      >>> schedule = get_scheduler("cosine", 0.8, 4, 14)
      >>> [round(float(schedule(count)), 4) for count in (0, 2, 4, 9, 14)]
      [0.0, 0.4, 0.8, 0.4, 0.0]
    """
    check_choice("name", name, list(_BUILDERS))
    build, needed = _BUILDERS[name]
    given = {_W: num_warmup_steps, _T: num_training_steps}
    numbers: list[Number | None] = [as_number("learning_rate", learning_rate)]
    for argument in given if name == "warmup_stable_decay" else needed:
        step = given[argument]
        if step is None and argument in needed:
            raise ValueError(f"{argument} must be given for {name!r}, got None.")
        numbers.append(None if step is None else as_number(argument, step))
    # As in transformers, these two accept any arguments and ignore them.
    plain = name in ("constant", "constant_with_warmup")
    own = {} if plain else dict(scheduler_specific_kwargs or {})
    try:
        inspect.signature(build).bind(*numbers, **own)
    except TypeError as error:
        message = f"scheduler_specific_kwargs do not fit {name!r}: {error}."
        raise TypeError(message) from None
    made: Schedule = build(*numbers, **own)
    return made


def _warmed_up(peak: Number, warmup: Number, rest: Schedule) -> Schedule:
    return join_schedules([linear_schedule(0.0, peak, warmup), rest], [warmup])


def _at_least_one(steps: Number) -> Number:
    return select(steps > 1, steps, 1)


def _waves(peak: Number, low: Number, steps: Number, num_cycles: Number) -> Schedule:
    """Returns `num_cycles` cosine waves per `steps` steps, forever."""
    steps, half_waves = _at_least_one(steps), as_whole(2 * num_cycles)
    return lambda count: cosine_wave(peak, low, half_waves * count, steps)


@builder
def _constant_with_warmup(peak: Number, warmup: Number, /) -> Schedule:
    return _warmed_up(peak, warmup, constant_schedule(peak))


@builder
def _linear(peak: Number, warmup: Number, total: Number, /) -> Schedule:
    steps = total - warmup
    start = select(steps > 0, peak, 0.0)
    decay = linear_schedule(start, 0.0, _at_least_one(steps))
    return _warmed_up(peak, warmup, decay)


@builder
def _cosine(
    peak: Number, warmup: Number, total: Number, /, num_cycles: Number = 0.5
) -> Schedule:
    waves = _waves(peak, 0.0, total - warmup, num_cycles)
    return _warmed_up(peak, warmup, waves)


@builder
def _cosine_with_restarts(
    peak: Number, warmup: Number, total: Number, /, num_cycles: Number = 1
) -> Schedule:
    steps = _at_least_one(total - warmup)
    product = num_cycles * steps
    if not (isinstance(product, int) and product < 2**31):
        num_cycles = 1.0 * num_cycles  # int32 may not hold the product with a count

    def waves(count: Number) -> Number:
        # Of integers the remainder is exact, and a restart where it should be.
        position = jnp.mod(num_cycles * count, steps)
        value = peak * half_cosine((steps - position) / steps)
        return with_ends(value, peak, position == 0, 0.0, count >= steps)

    return _warmed_up(peak, warmup, waves)


def _low(peak: Number, min_lr: Number | None, min_lr_rate: Number | None) -> Number:
    """Returns the lowest rate, given as such or as a fraction of the highest."""
    if min_lr is not None and min_lr_rate is not None:
        raise ValueError(
            "min_lr and min_lr_rate must not both be given, got "
            f"min_lr={min_lr!r} and min_lr_rate={min_lr_rate!r}."
        )
    if min_lr is not None:
        return min_lr
    if min_lr_rate is not None:
        return min_lr_rate * peak
    raise ValueError("min_lr or min_lr_rate must be given, got neither.")


@builder
def _cosine_with_min_lr(
    peak: Number,
    warmup: Number,
    total: Number,
    /,
    num_cycles: Number = 0.5,
    min_lr: Number | None = None,
    min_lr_rate: Number | None = None,
) -> Schedule:
    low = _low(peak, min_lr, min_lr_rate)
    return _warmed_up(peak, warmup, _waves(peak, low, total - warmup, num_cycles))


@builder
def _cosine_warmup_with_min_lr(
    peak: Number,
    warmup: Number,
    total: Number,
    /,
    num_cycles: Number = 0.5,
    min_lr: Number | None = None,
    min_lr_rate: Number | None = None,
    warmup_lr_rate: Number | None = None,
) -> Schedule:
    low = _low(peak, min_lr, min_lr_rate)
    waves = _waves(peak, low, total - warmup, num_cycles)
    if warmup_lr_rate is None:
        warmup_lr_rate = 1 / _at_least_one(warmup)
    rise = linear_schedule(warmup_lr_rate * peak, peak, warmup - 1)
    return join_schedules([rise, lambda count: waves(later(count, 1))], [warmup])


@builder
def _polynomial(
    peak: Number,
    warmup: Number,
    total: Number,
    /,
    lr_end: Number = 1e-7,
    power: Number = 1.0,
) -> Schedule:
    good = lr_end < peak
    if is_concrete(peak, lr_end) and not np.all(good):
        raise ValueError(
            f"lr_end must be < learning_rate, which is {peak!r}, got {lr_end!r}."
        )
    steps = total - warmup
    start = nan_unless(good, select(steps > 0, peak, lr_end))
    decay = polynomial_schedule(start, lr_end, power, select(steps > 0, steps, 1))
    return _warmed_up(peak, warmup, decay)


@builder
def _inverse_sqrt(
    peak: Number, warmup: Number, /, timescale: Number | None = None
) -> Schedule:
    if timescale is None:
        timescale = select(warmup == 0, 10_000, warmup)
    return _warmed_up(peak, warmup, inverse_sqrt_schedule(peak, timescale))


@builder
def _warmup_stable_decay(
    peak: Number,
    warmup: Number,
    total: Number | None,
    /,
    num_decay_steps: Number,
    num_stable_steps: Number | None = None,
    warmup_type: _Shape = "linear",
    decay_type: _Shape = "cosine",
    min_lr_ratio: Number = 0.0,
    num_cycles: Number = 0.5,
) -> Schedule:
    check_choice("warmup_type", warmup_type, ["linear", "cosine", "1-sqrt"])
    check_choice("decay_type", decay_type, ["linear", "cosine", "1-sqrt"])
    stable = num_stable_steps
    if stable is None:
        if total is None:
            raise ValueError(
                "num_training_steps or num_stable_steps must be given, got neither."
            )
        stable = total - warmup - num_decay_steps
    steady, low = constant_schedule(peak), min_lr_ratio * peak
    rise = with_warmup(steady, warmup, init_value=low, shape=warmup_type)
    decay = with_cooldown(
        steady, stable, num_decay_steps, end_value=low, shape=decay_type
    )
    waves = _waves(peak, low, num_decay_steps, num_cycles)

    def cosine_decay(count: Number) -> Number:
        # A negative number of stable steps starts the decay before step 0.
        elapsed = since(count, stable)
        value = waves(jnp.maximum(elapsed, 0))
        return jnp.where(elapsed >= num_decay_steps, low, value)

    return join_schedules(
        [rise, cosine_decay if decay_type == "cosine" else decay], [warmup]
    )


_W, _T = "num_warmup_steps", "num_training_steps"
# Each name with its builder and the numbers of steps it needs.
_BUILDERS: Mapping[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "linear": (_linear, (_W, _T)),
    "cosine": (_cosine, (_W, _T)),
    "cosine_with_restarts": (_cosine_with_restarts, (_W, _T)),
    "polynomial": (_polynomial, (_W, _T)),
    "constant": (constant_schedule, ()),
    "constant_with_warmup": (_constant_with_warmup, (_W,)),
    "inverse_sqrt": (_inverse_sqrt, (_W,)),
    "cosine_with_min_lr": (_cosine_with_min_lr, (_W, _T)),
    "cosine_warmup_with_min_lr": (_cosine_warmup_with_min_lr, (_W, _T)),
    "warmup_stable_decay": (_warmup_stable_decay, (_W,)),
    "reduce_lr_on_plateau": (reduce_lr_on_plateau, ()),
    "greedy": (greedy, ()),
}
