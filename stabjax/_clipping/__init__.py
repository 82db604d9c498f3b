"""Transformations that bound an update."""

from stabjax._clipping.fixed import (
    adaptive_grad_clip,
    clip,
    clip_by_block_norm,
    clip_by_block_rms,
    clip_by_global_norm,
    unitwise_clip,
    unitwise_norm,
)
from stabjax._clipping.per_example import (
    per_example_global_norm_clip,
    per_example_layer_norm_clip,
)

__all__ = [
    "adaptive_grad_clip",
    "clip",
    "clip_by_block_norm",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "per_example_global_norm_clip",
    "per_example_layer_norm_clip",
    "unitwise_clip",
    "unitwise_norm",
]
