"""PyTorch's schedulers. Pass the learning rate instead of the optimizer.

Each scheduler becomes a function of the count, which is the number of calls to
`step()`. The first update uses the value at 0. There is no state to save. Instead of
`last_epoch=n`, use `stabjax.shift_schedule(schedule, n + 1)`.
"""

from stabjax.compat.torch.composed import (
    chained_scheduler,
    lambda_lr,
    multiplicative_lr,
    sequential_lr,
)
from stabjax.compat.torch.cycles import (
    cosine_annealing_lr,
    cosine_annealing_warm_restarts,
    cyclic_lr,
    one_cycle_lr,
)
from stabjax.compat.torch.decays import (
    constant_lr,
    exponential_lr,
    linear_lr,
    multi_step_lr,
    polynomial_lr,
    step_lr,
)
from stabjax.compat.torch.plateau import reduce_lr_on_plateau

__all__ = [
    "chained_scheduler",
    "constant_lr",
    "cosine_annealing_lr",
    "cosine_annealing_warm_restarts",
    "cyclic_lr",
    "exponential_lr",
    "lambda_lr",
    "linear_lr",
    "multi_step_lr",
    "multiplicative_lr",
    "one_cycle_lr",
    "polynomial_lr",
    "reduce_lr_on_plateau",
    "sequential_lr",
    "step_lr",
]
