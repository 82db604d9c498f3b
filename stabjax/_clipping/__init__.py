"""Gradient and update clipping."""

from stabjax._clipping.effect import ClippingEffect, clipping_effect
from stabjax._clipping.fixed import (
    clip,
    clip_by_block_norm,
    clip_by_block_rms,
    clip_by_global_norm,
)
from stabjax._clipping.history import HistoryClipState
from stabjax._clipping.level import adagc, clip_by_norm_ratio, limit_norm_growth
from stabjax._clipping.moments import (
    ResetMomentsState,
    StableAdamState,
    reset_moments,
    scale_by_stable_adam,
)
from stabjax._clipping.per_example import (
    per_example_global_norm_clip,
    per_example_layer_norm_clip,
)
from stabjax._clipping.private import (
    AdaptiveQuantileClipState,
    DifferentiallyPrivateAggregateState,
    adaptive_quantile_clip,
    differentially_private_aggregate,
)
from stabjax._clipping.smooth import (
    normalize_by_update_norm,
    smooth_clip_by_global_norm,
)
from stabjax._clipping.spike import (
    SecondMomentClipState,
    SpamState,
    clip_by_second_moment,
    scale_by_spam,
)
from stabjax._clipping.stable_spam import (
    StableSpamState,
    TrackedMaxState,
    TrackedNormState,
    clip_by_tracked_max,
    normalize_by_tracked_norm,
    scale_by_stable_spam,
)
from stabjax._clipping.suggestion import MaxNormSuggestion, suggest_max_norm
from stabjax._clipping.threshold import ScheduledClipState
from stabjax._clipping.units import adaptive_grad_clip, unitwise_clip, unitwise_norm
from stabjax._clipping.update import adopt_clip, clip_by_relative_update, qk_clip
from stabjax._clipping.window import clip_by_percentile, clip_update_norm
from stabjax._clipping.zscore import zclip

__all__ = [
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
]
