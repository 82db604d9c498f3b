"""The schedules of Hugging Face transformers, by their names there."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax

from stabjax._schedules.arguments import (
    ArrayLike,
    builder,
    check,
    known,
    nan_unless,
    select,
    since,
)
from stabjax._schedules.compose import join_schedules
from stabjax._schedules.core import (
    constant_schedule,
    linear_schedule,
    polynomial_schedule,
)
from stabjax._schedules.decays import inverse_sqrt_schedule
from stabjax._schedules.shapes import half_wave
from stabjax._schedules.wrappers import with_cooldown, with_warmup
from stabjax.compat.greedy import greedy
from stabjax.compat.torch import reduce_lr_on_plateau

__all__ = ["get_scheduler"]


def get_scheduler(
    name: str,
    learning_rate: ArrayLike,
    num_warmup_steps: ArrayLike | None = None,
    num_training_steps: ArrayLike | None = None,
    scheduler_specific_kwargs: Mapping[str, Any] | None = None,
) -> Any:
    r"""Any schedule of transformers, from its name.

    With L the `learning_rate`, W the warm-up steps, T the training steps, warm-up
    included, and :math:`p = (t - W) / \max(1, T - W)`, the value is L times the factor

    - `"constant"`: 1.

    and for the rest :math:`t / \max(1, W)` in the warm-up, t < W, and from W on

    - `"constant_with_warmup"`: 1.
    - `"linear"`: :math:`\max(0, 1 - p)`.
    - `"cosine"`: :math:`(1 + \cos 2 \pi c p) / 2` with `num_cycles` c = 1/2. Like the
      other two, it rises again after T.
    - `"cosine_with_restarts"`: :math:`(1 + \cos(\pi (c p \bmod 1))) / 2` up to T, then
      0; `num_cycles` c = 1. Restarts fall where :math:`c p` is an integer, also where
      float64 rounds that (in transformers, from 22 cycles on).
    - `"cosine_with_min_lr"`: :math:`m + (1 - m) (1 + \cos 2 \pi c p) / 2`, of which
      either m, `min_lr_rate`, or L m, `min_lr`, must be given.
    - `"cosine_warmup_with_min_lr"`: the same, a step earlier, after a warm-up of
      :math:`(t + 1) / W`, or from `warmup_lr_rate` to 1 in W - 1 steps if it is given.
    - `"polynomial"`: :math:`e + (1 - e)(1 - p)^n`, with `lr_end` L e = 1e-7 and
      `power` n = 1, and e after T.
    - `"inverse_sqrt"`: :math:`\sqrt{\tau / (\tau + t - W)}`, with `timescale`
      :math:`\tau` = W, or 10000 if W = 0.
    - `"warmup_stable_decay"`: 1 for `num_stable_steps` S, or T - W - D, steps; then in
      `num_decay_steps` D steps down to `min_lr_ratio` m = 0. `decay_type` is
      `"linear"`, `"cosine"` (the default; `num_cycles` c = 1/2) or `"1-sqrt"`, and so
      is `warmup_type`, of a warm-up from m to 1.

    Two look at a metric, and take no steps. They are transformations, to be chained
    behind an optimizer of this `learning_rate`, whose updates they scale by the share
    of it that is left; each update is one step, its `value` the metric.

    - `"reduce_lr_on_plateau"`: :func:`stabjax.compat.torch.reduce_lr_on_plateau`.
    - `"greedy"`: the rate is divided by `factor` = 0.95 (up to `max_lr` = 1) after more
      than `patience` = 10 improvements in a row, and multiplied by it (down to `min_lr`
      = 1e-3) after more than as many metrics without one; then `warmup` = 0 or
      `cooldown` = 0 metrics do not count. An improvement is one by `threshold` = 1e-6,
      `threshold_mode` `"abs"` or `"rel"`, `mode` `"min"` or `"max"`, of the metric or,
      with `smooth`, of the mean of its last `window_size` = 50 values. Changes up to
      `eps` = 1e-8 are left out, and after `reset_start` = 500 reductions at the least
      rate all begins anew. The modes, `smooth` and the size of its window are static.

    Args:
      name: one of the above. Static.
      learning_rate: L, the learning rate of the optimizer. Traceable.
      num_warmup_steps: W in steps. Traceable.
      num_training_steps: T in steps. Traceable.
      scheduler_specific_kwargs: the arguments that are named above. The types are
        static, and which are given; all numbers are traceable.

    Returns:
      A function of the count, of any shape, that returns the learning rate, and NaN if
      a number was traced and is not allowed; for the two that look at a metric, a
      transformation whose `update` takes the extra argument `value`.

    Raises:
      ValueError: an unknown name or type; a number that is needed and not given, or
        concrete and not allowed.
      TypeError: an argument in `scheduler_specific_kwargs` that the schedule has not.

    Example:
      >>> from stabjax.compat.huggingface import get_scheduler
      >>> schedule = get_scheduler("cosine", 0.8, 4, 14)
      >>> [round(float(schedule(count)), 4) for count in (0, 2, 4, 9, 14)]
      [0.0, 0.4, 0.8, 0.4, 0.0]

    Source: transformers' `get_scheduler`.
    """
    if name not in _BUILDERS:
        names = ", ".join(map(repr, _BUILDERS))
        raise ValueError(f"name must be one of {names}, got {name!r}.")
    build, needed = _BUILDERS[name]
    given = {
        "num_warmup_steps": num_warmup_steps,
        "num_training_steps": num_training_steps,
    }
    for argument in needed:
        if given[argument] is None:
            raise ValueError(f"{argument} must be given for {name!r}, got None.")
    steps = {argument: given[argument] for argument in needed}
    if name == "warmup_stable_decay":
        steps = given
    # As in transformers, these two have no arguments of their own and look at none.
    plain = name in ("constant", "constant_with_warmup")
    own = {} if plain else dict(scheduler_specific_kwargs or {})
    try:
        inspect.signature(build).bind(learning_rate, **steps, **own)
    except TypeError as error:
        raise TypeError(
            f"scheduler_specific_kwargs do not fit {name!r}: {error}."
        ) from None
    return build(learning_rate, **steps, **own)


def _warmed_up(
    peak: ArrayLike, num_warmup_steps: ArrayLike, rest: optax.Schedule
) -> optax.Schedule:
    warmup = linear_schedule(0.0, peak, num_warmup_steps)
    return join_schedules([warmup, rest], [num_warmup_steps])


def _at_least_one(steps: ArrayLike) -> ArrayLike:
    return select(steps > 1, steps, 1)


def _waves(
    peak: ArrayLike, low: ArrayLike, steps: ArrayLike, num_cycles: ArrayLike
) -> optax.Schedule:
    """So many whole waves in so many steps, and on and on."""
    steps = _at_least_one(steps)

    def schedule(count: ArrayLike) -> ArrayLike:
        wave = half_wave((steps - 2 * num_cycles * count) / steps)
        return jnp.maximum(0, low + (peak - low) * wave)

    return schedule


@builder
def _constant(learning_rate: ArrayLike) -> optax.Schedule:
    return constant_schedule(learning_rate)


@builder
def _constant_with_warmup(
    learning_rate: ArrayLike, num_warmup_steps: ArrayLike
) -> optax.Schedule:
    steady = constant_schedule(learning_rate)
    return _warmed_up(learning_rate, num_warmup_steps, steady)


@builder
def _linear(
    learning_rate: ArrayLike, num_warmup_steps: ArrayLike, num_training_steps: ArrayLike
) -> optax.Schedule:
    steps = num_training_steps - num_warmup_steps
    start = select(steps > 0, learning_rate, 0.0)
    decay = linear_schedule(start, 0.0, _at_least_one(steps))
    return _warmed_up(learning_rate, num_warmup_steps, decay)


@builder
def _cosine(
    learning_rate: ArrayLike,
    num_warmup_steps: ArrayLike,
    num_training_steps: ArrayLike,
    num_cycles: ArrayLike = 0.5,
) -> optax.Schedule:
    steps = num_training_steps - num_warmup_steps
    waves = _waves(learning_rate, 0.0, steps, num_cycles)
    return _warmed_up(learning_rate, num_warmup_steps, waves)


@builder
def _cosine_with_restarts(
    learning_rate: ArrayLike,
    num_warmup_steps: ArrayLike,
    num_training_steps: ArrayLike,
    num_cycles: ArrayLike = 1,
) -> optax.Schedule:
    steps = _at_least_one(num_training_steps - num_warmup_steps)

    def waves(count: ArrayLike) -> ArrayLike:
        # Of whole numbers the remainder is exact, and a restart where it should be.
        position = jnp.mod(num_cycles * count, steps)
        wave = half_wave((steps - position) / steps)
        return learning_rate * jnp.where(count >= steps, 0, wave)

    return _warmed_up(learning_rate, num_warmup_steps, waves)


def _low(
    learning_rate: ArrayLike, min_lr: ArrayLike | None, min_lr_rate: ArrayLike | None
) -> ArrayLike:
    """The least rate, given as such or as a share of the greatest."""
    if min_lr is None and min_lr_rate is None:
        raise ValueError("min_lr or min_lr_rate must be given, got neither.")
    if min_lr is not None and min_lr_rate is not None:
        raise ValueError(
            "min_lr and min_lr_rate must not both be given, got "
            f"min_lr={min_lr} and min_lr_rate={min_lr_rate}."
        )
    return min_lr if min_lr_rate is None else min_lr_rate * learning_rate


@builder
def _cosine_with_min_lr(
    learning_rate: ArrayLike,
    num_warmup_steps: ArrayLike,
    num_training_steps: ArrayLike,
    num_cycles: ArrayLike = 0.5,
    min_lr: ArrayLike | None = None,
    min_lr_rate: ArrayLike | None = None,
) -> optax.Schedule:
    low = _low(learning_rate, min_lr, min_lr_rate)
    steps = num_training_steps - num_warmup_steps
    waves = _waves(learning_rate, low, steps, num_cycles)
    return _warmed_up(learning_rate, num_warmup_steps, waves)


@builder
def _cosine_warmup_with_min_lr(
    learning_rate: ArrayLike,
    num_warmup_steps: ArrayLike,
    num_training_steps: ArrayLike,
    num_cycles: ArrayLike = 0.5,
    min_lr: ArrayLike | None = None,
    min_lr_rate: ArrayLike | None = None,
    warmup_lr_rate: ArrayLike | None = None,
) -> optax.Schedule:
    low = _low(learning_rate, min_lr, min_lr_rate)
    steps = num_training_steps - num_warmup_steps
    waves = _waves(learning_rate, low, steps, num_cycles)
    if warmup_lr_rate is None:
        up = _at_least_one(num_warmup_steps)
        start, peak = learning_rate / up, learning_rate * (up + 1) / up
    else:
        up = _at_least_one(num_warmup_steps - 1)
        start, peak = warmup_lr_rate * learning_rate, learning_rate
    return join_schedules(
        [linear_schedule(start, peak, up), lambda count: waves(since(count, -1))],
        [num_warmup_steps],
    )


@builder
def _polynomial(
    learning_rate: ArrayLike,
    num_warmup_steps: ArrayLike,
    num_training_steps: ArrayLike,
    lr_end: ArrayLike = 1e-7,
    power: ArrayLike = 1.0,
) -> optax.Schedule:
    good = learning_rate > lr_end
    if known(learning_rate, lr_end):
        good = check(
            "lr_end",
            lr_end,
            lambda x: x < learning_rate,
            f"less than the learning rate {learning_rate}",
        )
    steps = num_training_steps - num_warmup_steps
    start = select(steps > 0, learning_rate, lr_end)
    decay = polynomial_schedule(
        nan_unless(good, start), lr_end, power, select(steps > 0, steps, 1)
    )
    return _warmed_up(learning_rate, num_warmup_steps, decay)


@builder
def _inverse_sqrt(
    learning_rate: ArrayLike,
    num_warmup_steps: ArrayLike,
    timescale: ArrayLike | None = None,
) -> optax.Schedule:
    if timescale is None:
        timescale = select(num_warmup_steps == 0, 10_000, num_warmup_steps)
    decay = inverse_sqrt_schedule(learning_rate, timescale)
    return _warmed_up(learning_rate, num_warmup_steps, decay)


@builder
def _warmup_stable_decay(
    learning_rate: ArrayLike,
    num_warmup_steps: ArrayLike,
    num_training_steps: ArrayLike | None,
    num_decay_steps: ArrayLike,
    num_stable_steps: ArrayLike | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: ArrayLike = 0.0,
    num_cycles: ArrayLike = 0.5,
) -> optax.Schedule:
    for argument, given in (("warmup_type", warmup_type), ("decay_type", decay_type)):
        if given not in ("linear", "cosine", "1-sqrt"):
            raise ValueError(
                f"{argument} must be 'linear', 'cosine' or '1-sqrt', got {given!r}."
            )
    if num_stable_steps is None:
        if num_training_steps is None:
            raise ValueError(
                "num_training_steps or num_stable_steps must be given, got neither."
            )
        num_stable_steps = num_training_steps - num_warmup_steps - num_decay_steps
    steady, low = constant_schedule(learning_rate), min_lr_ratio * learning_rate
    warmup = with_warmup(steady, num_warmup_steps, init_value=low, shape=warmup_type)
    if decay_type == "cosine":
        waves = _waves(learning_rate, low, num_decay_steps, num_cycles)
        decay = _once(waves, num_stable_steps, num_decay_steps, low)
    else:
        decay = with_cooldown(
            steady, num_stable_steps, num_decay_steps, end_value=low, shape=decay_type
        )
    return join_schedules([warmup, decay], [num_warmup_steps])


def _once(
    schedule: optax.Schedule, start: ArrayLike, steps: ArrayLike, end_value: ArrayLike
) -> optax.Schedule:
    """The schedule from a step on, for some steps; it may have begun before step 0."""

    def once(count: ArrayLike) -> ArrayLike:
        elapsed = since(count, start)
        value = schedule(jnp.maximum(elapsed, 0))
        return jnp.where(elapsed >= steps, end_value, value)

    return once


_W, _T = "num_warmup_steps", "num_training_steps"
# Each with the numbers of steps that it needs.
_BUILDERS: Mapping[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "linear": (_linear, (_W, _T)),
    "cosine": (_cosine, (_W, _T)),
    "cosine_with_restarts": (_cosine_with_restarts, (_W, _T)),
    "polynomial": (_polynomial, (_W, _T)),
    "constant": (_constant, ()),
    "constant_with_warmup": (_constant_with_warmup, (_W,)),
    "inverse_sqrt": (_inverse_sqrt, (_W,)),
    "cosine_with_min_lr": (_cosine_with_min_lr, (_W, _T)),
    "cosine_warmup_with_min_lr": (_cosine_warmup_with_min_lr, (_W, _T)),
    "warmup_stable_decay": (_warmup_stable_decay, (_W,)),
    "reduce_lr_on_plateau": (reduce_lr_on_plateau, ()),
    "greedy": (greedy, ()),
}
