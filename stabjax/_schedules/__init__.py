"""Schedules, which map update counts to values."""

from stabjax._schedules.compose import (
    join_schedules,
    sgdr_schedule,
    warmup_constant_schedule,
    warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule,
)
from stabjax._schedules.cycles import (
    cosine_restarts_schedule,
    cyclic_schedule,
)
from stabjax._schedules.decays import (
    constant_schedule,
    cosine_decay_schedule,
    exponential_decay,
    linear_schedule,
    polynomial_schedule,
)
from stabjax._schedules.language_models import (
    infinite_schedule,
    inverse_sqrt_schedule,
    noam_schedule,
    power_schedule,
    rex_schedule,
    wsd_schedule,
)
from stabjax._schedules.piecewise import (
    cosine_onecycle_schedule,
    linear_onecycle_schedule,
    piecewise_constant_schedule,
    piecewise_interpolate_schedule,
)
from stabjax._schedules.plateaus import weights_for, wsd_s_schedule
from stabjax._schedules.stepsizes import (
    chebyshev_schedule,
    silver_schedule,
    strongly_convex_silver_schedule,
)
from stabjax._schedules.theory import (
    ScheduleBound,
    best_cooldown_fraction,
    refine_schedule,
    schedule_bound,
    transfer_to_horizon,
)
from stabjax._schedules.tokens import seesaw_schedules, token_schedule
from stabjax._schedules.warmups import (
    exponential_warmup_schedule,
    radam_warmup_schedule,
    untuned_exponential_warmup_schedule,
    untuned_linear_warmup_schedule,
)
from stabjax._schedules.wrappers import (
    multiply_schedules,
    repeat_schedule,
    shift_schedule,
    with_bounds,
    with_cooldown,
    with_warmup,
)

__all__ = [
    "ScheduleBound",
    "best_cooldown_fraction",
    "chebyshev_schedule",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "cosine_restarts_schedule",
    "cyclic_schedule",
    "exponential_decay",
    "exponential_warmup_schedule",
    "infinite_schedule",
    "inverse_sqrt_schedule",
    "join_schedules",
    "linear_onecycle_schedule",
    "linear_schedule",
    "multiply_schedules",
    "noam_schedule",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polynomial_schedule",
    "power_schedule",
    "radam_warmup_schedule",
    "refine_schedule",
    "repeat_schedule",
    "rex_schedule",
    "schedule_bound",
    "seesaw_schedules",
    "sgdr_schedule",
    "shift_schedule",
    "silver_schedule",
    "strongly_convex_silver_schedule",
    "token_schedule",
    "transfer_to_horizon",
    "untuned_exponential_warmup_schedule",
    "untuned_linear_warmup_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "weights_for",
    "with_bounds",
    "with_cooldown",
    "with_warmup",
    "wsd_s_schedule",
    "wsd_schedule",
]
