"""Training stability for JAX.

Clip the gradient, schedule the learning rate, guard the step, log what they do, and
sweep thousands of runs at once, as pure functions that drop into Optax.
"""

from typing import TYPE_CHECKING, Any

from stabjax._clipping import (
    adagc,
    adaptive_grad_clip,
    adaptive_quantile_clip,
    adopt_clip,
    clip,
    clip_by_block_norm,
    clip_by_block_rms,
    clip_by_global_norm,
    clip_by_norm_ratio,
    clip_by_percentile,
    clip_by_relative_update,
    clip_by_second_moment,
    clip_by_tracked_max,
    clip_update_norm,
    differentially_private_aggregate,
    limit_norm_growth,
    normalize_by_tracked_norm,
    normalize_by_update_norm,
    per_example_global_norm_clip,
    per_example_layer_norm_clip,
    qk_clip,
    reset_moments,
    scale_by_spam,
    scale_by_stable_adam,
    scale_by_stable_spam,
    smooth_clip_by_global_norm,
    suggest_max_norm,
    unitwise_clip,
    unitwise_norm,
    zclip,
)
from stabjax._extras import load as _load
from stabjax._groups import by_group
from stabjax._guards import (
    check_guards,
    reduce_on_plateau,
    skip_above_norm,
    skip_if_nonfinite,
    skip_on_spike,
    unless_skipped,
)
from stabjax._metrics import metrics, with_learning_rate, with_metrics
from stabjax._norms import global_norm, leaf_norms
from stabjax._schedules import (
    best_cooldown_fraction,
    chebyshev_schedule,
    constant_schedule,
    cosine_decay_schedule,
    cosine_onecycle_schedule,
    cosine_restarts_schedule,
    cyclic_schedule,
    exponential_decay,
    exponential_warmup_schedule,
    infinite_schedule,
    inverse_sqrt_schedule,
    join_schedules,
    linear_onecycle_schedule,
    linear_schedule,
    multiply_schedules,
    noam_schedule,
    piecewise_constant_schedule,
    piecewise_interpolate_schedule,
    polynomial_schedule,
    power_schedule,
    radam_warmup_schedule,
    refine_schedule,
    repeat_schedule,
    rex_schedule,
    schedule_bound,
    sgdr_schedule,
    shift_schedule,
    silver_schedule,
    strongly_convex_silver_schedule,
    transfer_to_horizon,
    untuned_exponential_warmup_schedule,
    untuned_linear_warmup_schedule,
    warmup_constant_schedule,
    warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule,
    with_bounds,
    with_cooldown,
    with_warmup,
    wsd_schedule,
)
from stabjax._train import RangeTest, TrainResult, range_test, suggest_rate, train

if TYPE_CHECKING:
    from stabjax import compat, plot, problems, runs, search, study
    from stabjax._sweep import (
        Space,
        grid,
        sample,
        static,
        successive_halving,
        sweep,
        zipped,
    )

__version__ = "0.1.0"

# Loaded when first used: they need the packages of the extra `stabjax[sweep]`.
_SWEEP_NAMES = (
    "Space",
    "grid",
    "sample",
    "static",
    "successive_halving",
    "sweep",
    "zipped",
)
_MODULES = ("compat", "plot", "problems", "runs", "search", "study")
# The extras of modules that need more than `stabjax[sweep]`.
_EXTRAS = {"search": "optuna", "study": "study"}

# Names of earlier versions, and what each is called now.
_RENAMED = {
    "best": "runs.best",
    "check": "check_guards",
    "clip_schedule": "with_bounds",
    "load": "runs.load",
    "optuna": "search",
    "rerun": "runs.rerun",
    "stable_fraction": "runs.stable_fraction",
}

__all__ = [
    "RangeTest",
    "Space",
    "TrainResult",
    "adagc",
    "adaptive_grad_clip",
    "adaptive_quantile_clip",
    "adopt_clip",
    "best_cooldown_fraction",
    "by_group",
    "chebyshev_schedule",
    "check_guards",
    "clip",
    "clip_by_block_norm",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "clip_by_norm_ratio",
    "clip_by_percentile",
    "clip_by_relative_update",
    "clip_by_second_moment",
    "clip_by_tracked_max",
    "clip_update_norm",
    "compat",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "cosine_restarts_schedule",
    "cyclic_schedule",
    "differentially_private_aggregate",
    "exponential_decay",
    "exponential_warmup_schedule",
    "global_norm",
    "grid",
    "infinite_schedule",
    "inverse_sqrt_schedule",
    "join_schedules",
    "leaf_norms",
    "limit_norm_growth",
    "linear_onecycle_schedule",
    "linear_schedule",
    "metrics",
    "multiply_schedules",
    "noam_schedule",
    "normalize_by_tracked_norm",
    "normalize_by_update_norm",
    "per_example_global_norm_clip",
    "per_example_layer_norm_clip",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "plot",
    "polynomial_schedule",
    "power_schedule",
    "problems",
    "qk_clip",
    "radam_warmup_schedule",
    "range_test",
    "reduce_on_plateau",
    "refine_schedule",
    "repeat_schedule",
    "reset_moments",
    "rex_schedule",
    "runs",
    "sample",
    "scale_by_spam",
    "scale_by_stable_adam",
    "scale_by_stable_spam",
    "schedule_bound",
    "search",
    "sgdr_schedule",
    "shift_schedule",
    "silver_schedule",
    "skip_above_norm",
    "skip_if_nonfinite",
    "skip_on_spike",
    "smooth_clip_by_global_norm",
    "static",
    "strongly_convex_silver_schedule",
    "study",
    "successive_halving",
    "suggest_max_norm",
    "suggest_rate",
    "sweep",
    "train",
    "transfer_to_horizon",
    "unitwise_clip",
    "unitwise_norm",
    "unless_skipped",
    "untuned_exponential_warmup_schedule",
    "untuned_linear_warmup_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "with_bounds",
    "with_cooldown",
    "with_learning_rate",
    "with_metrics",
    "with_warmup",
    "wsd_schedule",
    "zclip",
    "zipped",
]


def __getattr__(name: str) -> Any:
    if name in _SWEEP_NAMES:
        return getattr(_load("stabjax._sweep", needed_by=f"stabjax.{name}"), name)
    if name in _MODULES:
        return _load(f"stabjax.{name}", extra=_EXTRAS.get(name, "sweep"))
    if name in _RENAMED:
        raise AttributeError(f"stabjax.{name} is now stabjax.{_RENAMED[name]}.")
    raise AttributeError(f"module 'stabjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
