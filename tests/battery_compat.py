"""The rows of the battery for the schedules of `stabjax.compat`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from stabjax.compat import timm, torch
from stabjax.compat.huggingface import get_scheduler


class Schedule(NamedTuple):
    """A schedule as a function of its numbers; those that are traceable."""

    name: str
    make: Callable[..., Callable]
    numbers: Mapping[str, Any]  # floats, or tuples of floats that become arrays
    variant: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.name, self.variant)))


def mean_of(*makes):
    """The mean of several schedules of the same numbers: one program for all."""

    def averaged(**numbers):
        schedules = [make(**numbers) for make in makes]
        return lambda count: sum(s(count) for s in schedules) / len(schedules)

    return averaged


def with_each(make, name, *values):
    """The mean over values of a static argument."""

    def bound(value):
        return lambda **numbers: make(**numbers, **{name: value})

    return mean_of(*map(bound, values))


def lambdas(make):
    def built(base_lr, slope):
        return make(base_lr, lambda count: 1 / (1 + slope * (1 + count)))

    return built


def sequence(base_lr, start_factor, milestones, slope):
    members = [
        torch.linear_lr(base_lr, start_factor, 1.0, 4),
        torch.multiplicative_lr(base_lr, lambda count: 1 / (1 + slope * count)),
        torch.cosine_annealing_lr(base_lr, 9),
    ]
    return torch.sequential_lr(base_lr, members, milestones)


def chain(base_lr, start_factor, gamma):
    """Of members that multiply, of one that needs a loop, of one that sets the rate."""
    warmup = torch.linear_lr(base_lr, start_factor, 1.0, 4)
    decay = torch.exponential_lr(base_lr, gamma)
    wave = torch.cosine_annealing_lr(base_lr, 8, 0.05)
    restarts = torch.cosine_annealing_warm_restarts(base_lr, 5)
    chains = [[warmup, decay], [warmup, wave], [warmup, restarts, decay]]
    schedules = [torch.chained_scheduler(base_lr, members) for members in chains]
    return lambda count: sum(jnp.asarray(s(count), float) for s in schedules)


def one_cycles(make):
    strategies = with_each(make, "anneal_strategy", "cos", "linear")
    return with_each(strategies, "three_phase", False, True)


def cyclic(make):
    return with_each(make, "mode", "triangular", "triangular2", "exp_range")


def named(name, **static):
    """A schedule of transformers as a function of what it takes."""

    def built(learning_rate, num_warmup_steps=None, num_training_steps=None, **own):
        steps = num_warmup_steps, num_training_steps
        return get_scheduler(name, learning_rate, *steps, own | static)

    return built


STEPS = {"num_warmup_steps": 4.0, "num_training_steps": 14.0}
RATE = {"learning_rate": 0.5}
WAVES = RATE | STEPS | {"num_cycles": 0.7}
CYCLE = {"step_size_up": 3.0, "step_size_down": 4.0, "gamma": 0.97}
ONE_CYCLE = {"total_steps": 15.0, "pct_start": 0.3}
WARM = {"warmup_t": 3.0, "warmup_lr_init": 0.1}
CYCLES = {
    "base_lr": 0.8,
    "t_initial": 4.0,
    "lr_min": 0.05,
    "cycle_mul": 1.5,
    "cycle_decay": 0.7,
    "cycle_limit": 3.0,
} | WARM

TORCH = [
    ("lambda_lr", lambdas(torch.lambda_lr), {"base_lr": 0.8, "slope": 0.1}),
    (
        "multiplicative_lr",
        lambdas(torch.multiplicative_lr),
        {"base_lr": 0.8, "slope": 0.1},
    ),
    ("step_lr", torch.step_lr, {"base_lr": 0.5, "step_size": 4.0, "gamma": 0.3}),
    (
        "multi_step_lr",
        torch.multi_step_lr,
        {"base_lr": 0.5, "milestones": (3.0, 7.0, 3.0), "gamma": 0.4},
    ),
    (
        "constant_lr",
        torch.constant_lr,
        {"base_lr": 0.8, "factor": 0.25, "total_iters": 4.0},
    ),
    (
        "linear_lr",
        torch.linear_lr,
        {"base_lr": 0.8, "start_factor": 0.2, "end_factor": 0.6, "total_iters": 6.0},
    ),
    ("exponential_lr", torch.exponential_lr, {"base_lr": 0.8, "gamma": 0.9}),
    (
        "polynomial_lr",
        torch.polynomial_lr,
        {"base_lr": 0.8, "total_iters": 7.0, "power": 2.5},
    ),
    (
        "cosine_annealing_lr",
        torch.cosine_annealing_lr,
        {"base_lr": 0.9, "T_max": 8.0, "eta_min": 0.1},
    ),
    (
        "cosine_annealing_warm_restarts",
        torch.cosine_annealing_warm_restarts,
        {"base_lr": 0.9, "T_0": 4.0, "T_mult": 2.0, "eta_min": 0.05},
    ),
    ("cyclic_lr", cyclic(torch.cyclic_lr), {"base_lr": 0.1, "max_lr": 1.0} | CYCLE),
    (
        "one_cycle_lr",
        one_cycles(torch.one_cycle_lr),
        {"max_lr": 1.0, "div_factor": 10.0, "final_div_factor": 100.0} | ONE_CYCLE,
    ),
    (
        "sequential_lr",
        sequence,
        {"base_lr": 0.8, "start_factor": 0.2, "milestones": (5.0, 9.0), "slope": 0.1},
    ),
    ("chained_scheduler", chain, {"base_lr": 0.8, "start_factor": 0.2, "gamma": 0.9}),
]

HUGGINGFACE = [
    ("constant", named("constant"), RATE),
    (
        "constant_with_warmup",
        named("constant_with_warmup"),
        RATE | {"num_warmup_steps": 4.0},
    ),
    ("linear", named("linear"), RATE | STEPS),
    ("cosine", named("cosine"), WAVES),
    (
        "cosine_with_restarts",
        named("cosine_with_restarts"),
        WAVES | {"num_cycles": 2.0},
    ),
    ("cosine_with_min_lr", named("cosine_with_min_lr"), WAVES | {"min_lr": 0.05}),
    (
        "cosine_warmup_with_min_lr",
        named("cosine_warmup_with_min_lr"),
        WAVES | {"min_lr_rate": 0.1, "warmup_lr_rate": 0.2},
    ),
    (
        "polynomial",
        named("polynomial"),
        RATE | STEPS | {"lr_end": 0.02, "power": 2.0},
    ),
    (
        "inverse_sqrt",
        named("inverse_sqrt"),
        RATE | {"num_warmup_steps": 4.0, "timescale": 10.0},
    ),
    (
        "warmup_stable_decay",
        with_each(
            lambda phase, **numbers: named(
                "warmup_stable_decay", warmup_type=phase, decay_type=phase
            )(**numbers),
            "phase",
            "linear",
            "cosine",
            "1-sqrt",
        ),
        WAVES | {"num_decay_steps": 6.0, "min_lr_ratio": 0.1},
    ),
]

TIMM = [
    (
        "cosine_lr_scheduler",
        with_each(timm.cosine_lr_scheduler, "warmup_prefix", False, True),
        CYCLES | {"k_decay": 1.5},
    ),
    (
        "step_lr_scheduler",
        timm.step_lr_scheduler,
        {"base_lr": 0.8, "decay_t": 4.0, "decay_rate": 0.5} | WARM,
    ),
    (
        "multi_step_lr_scheduler",
        timm.multi_step_lr_scheduler,
        {"base_lr": 0.8, "decay_t": (4.0, 10.0), "decay_rate": 0.5} | WARM,
    ),
]

SCHEDULES = [
    *(Schedule(f"compat.torch.{name}", make, n) for name, make, n in TORCH),
    *(
        Schedule("compat.huggingface.get_scheduler", make, n, variant=name)
        for name, make, n in HUGGINGFACE
    ),
    *(Schedule(f"compat.timm.{name}", make, n) for name, make, n in TIMM),
]
