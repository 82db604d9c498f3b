"""Training stability for JAX.

Provides gradient clipping, learning rate schedules, guards against bad steps, metrics,
and sweeps over thousands of runs, as pure functions that work with Optax.
"""

from stabjax._extras import load as _load

__version__ = "0.1.0"

# Public names by the package that defines them. A package is imported when one of its
# names is first used: importing all of them takes 0.1 s, half of it in the garbage
# collector. Type checkers read the same list from `__init__.pyi`.
_HOMES = {
    "_clipping": (
        "AdaptiveQuantileClipState",
        "ClippingEffect",
        "DifferentiallyPrivateAggregateState",
        "HistoryClipState",
        "MaxNormSuggestion",
        "ResetMomentsState",
        "ScheduledClipState",
        "SecondMomentClipState",
        "SpamState",
        "StableAdamState",
        "StableSpamState",
        "TrackedMaxState",
        "TrackedNormState",
        "adagc",
        "adaptive_grad_clip",
        "adaptive_quantile_clip",
        "adopt_clip",
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
        "clipping_effect",
        "differentially_private_aggregate",
        "limit_norm_growth",
        "normalize_by_tracked_norm",
        "normalize_by_update_norm",
        "per_example_global_norm_clip",
        "per_example_layer_norm_clip",
        "qk_clip",
        "reset_moments",
        "scale_by_spam",
        "scale_by_stable_adam",
        "scale_by_stable_spam",
        "smooth_clip_by_global_norm",
        "suggest_max_norm",
        "unitwise_clip",
        "unitwise_norm",
        "zclip",
    ),
    "_groups": ("by_group",),
    "_guards": (
        "GuardState",
        "ReduceOnPlateauState",
        "check_guards",
        "reduce_on_plateau",
        "skip_above_norm",
        "skip_if_nonfinite",
        "skip_on_spike",
        "unless_skipped",
    ),
    "_metrics": (
        "LearningRateState",
        "MetricsState",
        "metrics",
        "with_learning_rate",
        "with_metrics",
    ),
    "_norms": ("global_norm", "leaf_norms"),
    "_schedules": (
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
    ),
    "_sweep": (
        "Space",
        "grid",
        "sample",
        "static",
        "successive_halving",
        "sweep",
        "zipped",
    ),
    "_train": (
        "BestEvaluation",
        "EarlyStopping",
        "RangeTest",
        "TrainResult",
        "range_test",
        "suggest_rate",
        "train",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = ("compat", "plot", "problems", "runs", "search", "study")
# Extras for modules that need more than `stabjax[sweep]`.
_EXTRAS = {"search": "optuna", "study": "study"}

# Names from earlier versions and their replacements.
_RENAMED = {
    "best": "runs.best",
    "check": "check_guards",
    "clip_schedule": "with_bounds",
    "load": "runs.load",
    "optuna": "search",
    "rerun": "runs.rerun",
    "stable_fraction": "runs.stable_fraction",
}

__all__ = sorted([*_HOME_OF, *_MODULES])  # noqa: PLE0605


def __getattr__(name: str) -> object:
    if name in _HOME_OF:
        home = _load(f"stabjax.{_HOME_OF[name]}", needed_by=f"stabjax.{name}")
        value = globals()[name] = getattr(home, name)
        return value
    if name in _MODULES:
        return _load(f"stabjax.{name}", extra=_EXTRAS.get(name, "sweep"))
    if name in _RENAMED:
        raise AttributeError(f"stabjax.{name} is now stabjax.{_RENAMED[name]}.")
    raise AttributeError(f"module 'stabjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
