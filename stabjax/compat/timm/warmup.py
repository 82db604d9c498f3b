"""The warm-up that all of timm's schedulers have."""

import optax

from stabjax._schedules.arguments import ArrayLike
from stabjax._schedules.compose import join_schedules
from stabjax._schedules.core import linear_schedule
from stabjax._schedules.wrappers import shift_schedule


def warmed_up(
    schedule: optax.Schedule,
    target: ArrayLike,
    warmup_t: ArrayLike,
    warmup_lr_init: ArrayLike,
    warmup_prefix: bool,
) -> optax.Schedule:
    """A straight line to a rate; then the schedule, from its start or in its midst."""
    warmup = linear_schedule(warmup_lr_init, target, warmup_t)
    rest = schedule if warmup_prefix else shift_schedule(schedule, warmup_t)
    return join_schedules([warmup, rest], [warmup_t])
