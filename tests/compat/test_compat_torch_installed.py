"""PyTorch's schedulers beside those of the PyTorch that is installed."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from libraries import COUNTS, Case, check

from stabjax.compat import torch as compat

torch = pytest.importorskip("torch")
theirs = torch.optim.lr_scheduler

pytestmark = pytest.mark.slow


def optimizer_of(rate):
    optimizer = torch.optim.SGD(
        [torch.nn.Parameter(torch.zeros(1))], rate, momentum=0.9
    )
    optimizer.step()  # before its scheduler's, as PyTorch insists
    return optimizer


def observed(make, field="lr"):
    """The values of a scheduler, from its optimizer; after an error, the final one.

    `OneCycleLR` raises a ValueError one step after its final value.
    """

    def values(base_lr=0.1, **numbers):
        optimizer = optimizer_of(base_lr)
        found = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a chain made before the first step
            scheduler = make(optimizer, **numbers)
            for _ in COUNTS:
                found.append(optimizer.param_groups[0][field])
                try:
                    scheduler.step()
                except (ValueError, ZeroDivisionError) as error:
                    final = found[-2 if isinstance(error, ValueError) else -1]
                    return found + [final] * (len(COUNTS) - len(found))
        return found

    return values


def drawing(**ranges):
    """Each number from a list, a range of integers, or a range of floats."""

    def one(rng, given):
        if isinstance(given, list):
            return rng.choice(given)
        low, high = given
        pick = rng.randint if isinstance(low, int) else rng.uniform
        return pick(low, high)

    return lambda rng: {name: one(rng, given) for name, given in ranges.items()}


RATE = (0.01, 2.0)
STEPS = [-1, 0, 1, 2, 5, 7, 13, 28, 41]


def milestones(rng):
    steps = tuple(rng.choice([0, 3, 7, 7, 12, 30, -2]) for _ in range(4))
    return dict(
        base_lr=rng.uniform(*RATE), milestones=steps, gamma=rng.uniform(-0.5, 2)
    )


def cyclic(mode):
    numbers = dict(step_size_up=(1, 12), step_size_down=(1, 12), gamma=(0.9, 1.05))
    both = dict(mode=mode, cycle_momentum=True)
    yield Case(
        f"cyclic_lr-{mode}",
        lambda **n: compat.cyclic_lr(**n, mode=mode),
        observed(lambda o, **n: theirs.CyclicLR(o, o.defaults["lr"], **n, **both)),
        drawing(base_lr=RATE, max_lr=RATE, **numbers),
    )
    yield Case(
        f"cyclic_momentum-{mode}",
        lambda base_momentum, max_momentum, **n: compat.cyclic_lr(
            max_momentum, base_momentum, **n, mode=mode
        ),
        observed(lambda o, **n: theirs.CyclicLR(o, 0.1, 1.0, **n, **both), "momentum"),
        drawing(base_momentum=(0.5, 0.85), max_momentum=(0.85, 0.99), **numbers),
    )


def one_cycle(strategy, three_phase):
    shape = dict(anneal_strategy=strategy, three_phase=three_phase)
    numbers = dict(
        total_steps=(3, 45), pct_start=[0.1, 0.2, 0.25, 0.3, 0.37, 0.45, 0.5, 0.8, 1.0]
    )
    name = f"{strategy}-{2 + three_phase}"
    yield Case(
        f"one_cycle_lr-{name}",
        lambda **n: compat.one_cycle_lr(**n, **shape),
        observed(lambda o, **n: theirs.OneCycleLR(o, **n, **shape)),
        avoiding_zero(
            drawing(
                max_lr=RATE,
                div_factor=(1.0, 30.0),
                final_div_factor=(1.0, 1e4),
                **numbers,
            )
        ),
    )
    yield Case(
        f"one_cycle_momentum-{name}",
        lambda base_momentum, max_momentum, **n: compat.one_cycle_lr(
            base_momentum,
            **n,
            **shape,
            div_factor=base_momentum / max_momentum,
            final_div_factor=1,
        ),
        observed(lambda o, **n: theirs.OneCycleLR(o, 1.0, **n, **shape), "momentum"),
        avoiding_zero(
            drawing(base_momentum=(0.5, 0.85), max_momentum=(0.85, 0.99), **numbers)
        ),
    )


def avoiding_zero(draw):
    """PyTorch cannot begin if the first phase ends at step 0."""

    def drawn(rng):
        while True:
            numbers = draw(rng)
            if numbers["pct_start"] * numbers["total_steps"] != 1:
                return numbers

    return drawn


def inverse(e):
    return 1 / (1 + 0.1 * e)


# Makers of members of a chain or a sequence, from the optimizer or the rate.
MEMBERS = {
    "constant": ("ConstantLR", "constant_lr", dict(factor=0.25, total_iters=6)),
    "linear": ("LinearLR", "linear_lr", dict(start_factor=0.2, total_iters=9)),
    "exponential": ("ExponentialLR", "exponential_lr", dict(gamma=0.93)),
    "step": ("StepLR", "step_lr", dict(step_size=4, gamma=0.7)),
    "polynomial": ("PolynomialLR", "polynomial_lr", dict(total_iters=11, power=1.5)),
    "cosine": ("CosineAnnealingLR", "cosine_annealing_lr", dict(T_max=8, eta_min=0.1)),
    "lambda": ("LambdaLR", "lambda_lr", dict(lr_lambda=inverse)),
    "multiplicative": (
        "MultiplicativeLR",
        "multiplicative_lr",
        dict(lr_lambda=lambda e: 0.9 + 0.01 * (e % 3)),
    ),
    "restarts": (
        "CosineAnnealingWarmRestarts",
        "cosine_annealing_warm_restarts",
        dict(T_0=5, T_mult=2, eta_min=0.05),
    ),
}
CHAINS = [
    ("constant", "exponential"),
    ("linear", "cosine"),
    ("cosine", "linear"),
    ("linear", "step", "exponential"),
    ("multiplicative", "linear"),
    ("linear", "restarts"),
    ("lambda", "exponential"),
    ("step", "lambda", "linear", "cosine"),
    ("cosine", "polynomial"),
]
SEQUENCES = [
    ("linear", "cosine", "exponential"),
    ("constant", "multiplicative", "step"),
    ("multiplicative", "multiplicative", "polynomial"),
    ("lambda", "restarts", "multiplicative"),
]


def their_members(names, optimizer):
    return [
        getattr(theirs, MEMBERS[name][0])(optimizer, **MEMBERS[name][2])
        for name in names
    ]


def our_members(names, base_lr):
    return [
        getattr(compat, MEMBERS[name][1])(base_lr, **MEMBERS[name][2]) for name in names
    ]


def chain(names):
    return Case(
        "chained_scheduler-" + "-".join(names),
        lambda base_lr: compat.chained_scheduler(base_lr, our_members(names, base_lr)),
        observed(lambda o: theirs.ChainedScheduler(their_members(names, o))),
        drawing(base_lr=RATE),
        eager_sets=2,
    )


def sequence(names):
    return Case(
        "sequential_lr-" + "-".join(names),
        lambda base_lr, milestones: compat.sequential_lr(
            base_lr, our_members(names, base_lr), milestones
        ),
        observed(
            lambda o, milestones: theirs.SequentialLR(
                o, their_members(names, o), list(milestones)
            )
        ),
        lambda rng: dict(
            base_lr=rng.uniform(*RATE),
            milestones=tuple(sorted(rng.sample(range(1, 30), 2))),
        ),
        eager_sets=2,
    )


CASES = [
    Case(
        "step_lr",
        compat.step_lr,
        observed(theirs.StepLR),
        drawing(base_lr=RATE, step_size=(1, 30), gamma=[0.0, -0.5, 0.1, 0.7, 1.0, 1.1]),
    ),
    Case(
        "multi_step_lr", compat.multi_step_lr, observed(theirs.MultiStepLR), milestones
    ),
    Case(
        "constant_lr",
        compat.constant_lr,
        observed(theirs.ConstantLR),
        drawing(base_lr=RATE, factor=(0.01, 1.0), total_iters=STEPS),
    ),
    Case(
        "linear_lr",
        compat.linear_lr,
        observed(theirs.LinearLR),
        drawing(
            base_lr=RATE,
            start_factor=(0.01, 1.0),
            end_factor=[0.0, 0.3, 0.6, 1.0],
            total_iters=STEPS,
        ),
    ),
    Case(
        "exponential_lr",
        compat.exponential_lr,
        observed(theirs.ExponentialLR),
        drawing(base_lr=RATE, gamma=[0.0, -0.9, 0.5, 0.9, 0.99, 1.0, 1.05]),
    ),
    Case(
        "polynomial_lr",
        compat.polynomial_lr,
        observed(theirs.PolynomialLR),
        drawing(base_lr=RATE, total_iters=STEPS, power=[0.0, 0.5, 1.0, 2.0, 3.3]),
    ),
    Case(
        "cosine_annealing_lr",
        compat.cosine_annealing_lr,
        observed(theirs.CosineAnnealingLR),
        drawing(base_lr=RATE, T_max=(1, 40), eta_min=(0.0, 0.5)),
    ),
    Case(
        "cosine_annealing_warm_restarts",
        compat.cosine_annealing_warm_restarts,
        observed(theirs.CosineAnnealingWarmRestarts),
        drawing(base_lr=RATE, T_0=(1, 20), T_mult=[1, 1, 2, 3, 4], eta_min=(0.0, 0.5)),
    ),
    *(
        case
        for mode in ("triangular", "triangular2", "exp_range")
        for case in cyclic(mode)
    ),
    *(
        case
        for s in ("cos", "linear")
        for three in (False, True)
        for case in one_cycle(s, three)
    ),
    Case(
        "lambda_lr",
        lambda base_lr, slope: compat.lambda_lr(base_lr, lambda e: 1 / (1 + slope * e)),
        observed(lambda o, slope: theirs.LambdaLR(o, lambda e: 1 / (1 + slope * e))),
        drawing(base_lr=RATE, slope=(0.0, 1.0)),
    ),
    Case(
        "multiplicative_lr",
        lambda base_lr, x: compat.multiplicative_lr(
            base_lr, lambda e: x**0.5 + 0.01 * e
        ),
        observed(lambda o, x: theirs.MultiplicativeLR(o, lambda e: x**0.5 + 0.01 * e)),
        drawing(base_lr=RATE, x=(0.1, 0.9)),
        eager_sets=2,
    ),
    *map(chain, CHAINS),
    *map(sequence, SEQUENCES),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_are_those_of_pytorch(case):
    check(case)


@pytest.mark.parametrize("scale_mode", ["cycle", "iterations"])
def test_a_scale_of_ones_own(scale_mode):
    rest = dict(max_lr=1.0, step_size_up=3, step_size_down=4, scale_mode=scale_mode)
    values = observed(
        lambda o: theirs.CyclicLR(o, 0.1, scale_fn=lambda k: 1 / (1 + k), **rest)
    )()
    schedule = compat.cyclic_lr(0.1, scale_fn=lambda k: 1 / (1 + k), **rest)
    np.testing.assert_allclose(schedule(jnp.asarray(COUNTS)), values, 1e-6)


def test_epochs_times_their_steps():
    shape = dict(epochs=4, steps_per_epoch=6, pct_start=0.3)
    values = observed(lambda o: theirs.OneCycleLR(o, 1.0, **shape))()
    schedule = compat.one_cycle_lr(1.0, **shape)
    np.testing.assert_allclose(schedule(jnp.asarray(COUNTS)), values, 1e-5, 1e-7)
