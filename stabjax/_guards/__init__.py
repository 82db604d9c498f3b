"""Guards of the step: what a bad loss or gradient must not do."""

from stabjax._guards.check import check
from stabjax._guards.plateau import reduce_on_plateau
from stabjax._guards.skip import skip_above_norm, skip_if_nonfinite, skip_on_spike

__all__ = [
    "check",
    "reduce_on_plateau",
    "skip_above_norm",
    "skip_if_nonfinite",
    "skip_on_spike",
]
