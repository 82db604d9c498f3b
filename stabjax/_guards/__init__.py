"""Guards: wrappers that protect the training state from bad steps."""

from stabjax._guards.check_guards import check_guards
from stabjax._guards.decision import GuardState
from stabjax._guards.plateau import ReduceOnPlateauState, reduce_on_plateau
from stabjax._guards.skip import skip_above_norm, skip_if_nonfinite, skip_on_spike
from stabjax._guards.skipped import unless_skipped

__all__ = [
    "GuardState",
    "ReduceOnPlateauState",
    "check_guards",
    "reduce_on_plateau",
    "skip_above_norm",
    "skip_if_nonfinite",
    "skip_on_spike",
    "unless_skipped",
]
