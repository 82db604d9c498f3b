"""PyTorch's schedulers: where it has the optimizer, put the optimizer's learning rate.

A scheduler becomes a function of the count: the number of times that `step()` would
have been called, so the first update has the value at 0. There is nothing to step and
nothing to save; what `last_epoch=n` is there is `stabjax.shift_schedule(..., n + 1)`.
"""

from stabjax.compat.torch.composed import (
    chained_scheduler,
    lambda_lr,
    multiplicative_lr,
    sequential_lr,
)
from stabjax.compat.torch.cycles import (
    cosine_annealing_warm_restarts,
    cyclic_lr,
    cyclic_momentum,
)
from stabjax.compat.torch.decays import (
    constant_lr,
    cosine_annealing_lr,
    exponential_lr,
    linear_lr,
    multi_step_lr,
    polynomial_lr,
    step_lr,
)
from stabjax.compat.torch.one_cycle import one_cycle_lr, one_cycle_momentum
from stabjax.compat.torch.plateau import reduce_lr_on_plateau

__all__ = [
    "chained_scheduler",
    "constant_lr",
    "cosine_annealing_lr",
    "cosine_annealing_warm_restarts",
    "cyclic_lr",
    "cyclic_momentum",
    "exponential_lr",
    "lambda_lr",
    "linear_lr",
    "multi_step_lr",
    "multiplicative_lr",
    "one_cycle_lr",
    "one_cycle_momentum",
    "polynomial_lr",
    "reduce_lr_on_plateau",
    "sequential_lr",
    "step_lr",
]
