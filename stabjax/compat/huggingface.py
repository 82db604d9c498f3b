"""The schedules of Hugging Face transformers."""

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
from stabjax._schedules.language_models import inverse_sqrt_schedule
from stabjax._schedules.shapes import half_cosine, with_ends
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
    """Returns the schedule with the given name in transformers.

    Let L be the learning rate, W the number of warmup steps, T the number of training
    steps including warmup, and p = (t - W) / max(1, T - W). For `"constant"`, the value
    is L. All other schedules start with a linear warmup L t / max(1, W) for t < W. From
    step W onwards, the value is L times one of the following factors:

    - `"constant_with_warmup"`: 1.
    - `"linear"`: max(0, 1 - p).
    - `"cosine"`: (1 + cos(2 pi c p)) / 2 with `num_cycles` c = 1/2. The cosine rises
      again after T.
    - `"cosine_with_restarts"`: (1 + cos(pi (c p mod 1))) / 2 until T, then 0, with
      `num_cycles` c = 1. Restarts occur where c p is an integer. (In transformers, they
      may be missed due to float64 rounding for 22 or more cycles.)
    - `"cosine_with_min_lr"`: m + (1 - m) (1 + cos(2 pi c p)) / 2. Pass m as
      `min_lr_rate`, or L m as `min_lr`. The cosine rises again after T.
    - `"cosine_warmup_with_min_lr"`: the same factor one step earlier, after a warmup
      factor of (t + 1) / W. If `warmup_lr_rate` is given, the warmup instead rises from
      this value to 1 in W - 1 steps. The cosine rises again after T.
    - `"polynomial"`: e + (1 - e) (1 - p)^n, and e after T, with `lr_end` L e = 1e-7 and
      `power` n = 1.
    - `"inverse_sqrt"`: sqrt(s / (s + t - W)), with `timescale` s = W (10000 if
      W = 0).
    - `"warmup_stable_decay"`: 1 for `num_stable_steps` S = T - W - D, followed by a
      decay to `min_lr_ratio` m = 0 in `num_decay_steps` D. `decay_type` is `"linear"`,
      `"cosine"` (the default, with `num_cycles` c = 1/2) or `"1-sqrt"`. `warmup_type`
      has the same options and determines the warmup from m to 1.

    Two more schedules depend on a metric instead of the step. They are transformations:
    chain them after an optimizer with this learning rate to scale its updates. Pass the
    metric to each update as the extra argument `value`.

    - `"reduce_lr_on_plateau"`: see `stabjax.compat.torch.reduce_lr_on_plateau`.
    - `"greedy"`: divides the learning rate by `factor` = 0.95 (up to `max_lr` = 1)
      after more than `patience` = 10 consecutive improvements, and multiplies it by
      `factor` (down to `min_lr` = 1e-3) after more than `patience` consecutive metrics
      without improvement. The next `warmup` = 0 or `cooldown` = 0 metrics are ignored.
      Improvements must exceed `threshold` = 1e-6 (`threshold_mode` `"abs"` or `"rel"`,
      `mode` `"min"` or `"max"`). With `smooth`, metrics are averaged over the last
      `window_size` = 50 values. Changes up to `eps` = 1e-8 are skipped. After
      `reset_start` = 500 reductions at the minimum, the rule restarts. The modes,
      `smooth` and `window_size` are static.

    Args:
      name: name of the schedule, as listed above. **Static.**
      learning_rate: L, the learning rate of the optimizer. **Traceable.**
      num_warmup_steps: W in steps. **Traceable.**
      num_training_steps: T in steps. **Traceable.**
      scheduler_specific_kwargs: the additional arguments listed above. Types and the
        set of given arguments are **static**, and all numbers are **traceable**.

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate, or
      NaN if a traced number is out of range. The last two names return a transformation
      instead.

    Raises:
      ValueError: If a name or type is unknown, or a number is missing or, if concrete,
        out of range.
      TypeError: If `scheduler_specific_kwargs` contains an argument that the schedule
        does not have, or an argument is not a number.

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
    # Like transformers, these two schedules accept and ignore any arguments.
    plain = name in ("constant", "constant_with_warmup")
    own = {} if plain else dict(scheduler_specific_kwargs or {})
    try:
        inspect.signature(build).bind(*numbers, **own)
    except TypeError as error:
        message = f"scheduler_specific_kwargs do not match {name!r}: {error}."
        raise TypeError(message) from None
    made: Schedule = build(*numbers, **own)
    return made


def _warmed_up(peak: Number, warmup: Number, rest: Schedule) -> Schedule:
    return join_schedules([linear_schedule(0.0, peak, warmup), rest], [warmup])


def _at_least_one(steps: Number) -> Number:
    return select(steps > 1, steps, 1)


def _waves(peak: Number, low: Number, steps: Number, num_cycles: Number) -> Schedule:
    """Returns a cosine wave with `num_cycles` periods in `steps` steps."""
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
        num_cycles = 1.0 * num_cycles  # the product with a count may exceed int32

    def waves(count: Number) -> Number:
        # Integer remainders are exact, which puts restarts at the correct steps.
        position = jnp.mod(num_cycles * count, steps)
        value = peak * half_cosine((steps - position) / steps)
        return with_ends(value, peak, position == 0, 0.0, count >= steps)

    return _warmed_up(peak, warmup, waves)


def _low(peak: Number, min_lr: Number | None, min_lr_rate: Number | None) -> Number:
    """Returns the minimum rate, given directly or as a fraction of the maximum."""
    if min_lr is not None and min_lr_rate is not None:
        raise ValueError(
            "only one of min_lr and min_lr_rate may be given, got "
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
        # With a negative number of stable steps, the decay begins before step 0.
        elapsed = since(count, stable)
        value = waves(jnp.maximum(elapsed, 0))
        return jnp.where(elapsed >= num_decay_steps, low, value)

    return join_schedules(
        [rise, cosine_decay if decay_type == "cosine" else decay], [warmup]
    )


_W, _T = "num_warmup_steps", "num_training_steps"
# Maps each name to its builder and the step counts it requires.
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
