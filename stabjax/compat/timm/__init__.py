"""timm's schedulers: where it has the optimizer, put the optimizer's learning rate.

The count is what timm's `step` or `step_update` is called with: updates, or epochs
multiplied by the updates in each. `t_in_epochs`, and the noise that is PyTorch's random
numbers, have no counterpart.
"""

from stabjax.compat.timm.cycles import (
    cosine_lr_scheduler,
    poly_lr_scheduler,
    tanh_lr_scheduler,
)
from stabjax.compat.timm.phases import wsd_lr_scheduler
from stabjax.compat.timm.plateau import plateau_lr_scheduler
from stabjax.compat.timm.steps import multi_step_lr_scheduler, step_lr_scheduler

__all__ = [
    "cosine_lr_scheduler",
    "multi_step_lr_scheduler",
    "plateau_lr_scheduler",
    "poly_lr_scheduler",
    "step_lr_scheduler",
    "tanh_lr_scheduler",
    "wsd_lr_scheduler",
]
