"""Norms of pytrees on any mesh, without overflow or underflow."""

from stabjax._norms.scaled import ScaledNorm, as_scaled, safe_root
from stabjax._norms.trees import (
    check_order,
    global_norm,
    has_elements,
    is_float0,
    leaf_norms,
    magnitudes,
    norm_dtype,
    norm_of_leaves,
    norms_of_examples,
    norms_of_units,
    scaled_leaf_norms,
    scaled_norm,
    unit_norms,
    widened,
)

__all__ = [
    "ScaledNorm",
    "as_scaled",
    "check_order",
    "global_norm",
    "has_elements",
    "is_float0",
    "leaf_norms",
    "magnitudes",
    "norm_dtype",
    "norm_of_leaves",
    "norms_of_examples",
    "norms_of_units",
    "safe_root",
    "scaled_leaf_norms",
    "scaled_norm",
    "unit_norms",
    "widened",
]
