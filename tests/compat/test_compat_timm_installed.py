"""timm's schedulers beside those of the timm that is installed."""

import pytest
from libraries import COUNTS, Case, check

from stabjax.compat import timm as compat

torch = pytest.importorskip("torch")
theirs = pytest.importorskip("timm.scheduler", exc_type=ImportError)

pytestmark = pytest.mark.slow

WARM = dict(warmup_t=[0, 1, 3, 8], warmup_lr_init=[0.0, 0.01])
CYCLES = dict(
    t_initial=(2, 15),
    lr_min=[0.0, 0.005],
    cycle_mul=[1.0, 1.0, 1.5, 2.0],
    cycle_decay=[1.0, 0.6],
    cycle_limit=(1, 4),
    **WARM,
)


def observed(scheduler, **static):
    def values(base_lr, decay_t=None, **numbers):
        if decay_t is not None:
            numbers["decay_t"] = (
                list(decay_t) if isinstance(decay_t, tuple) else decay_t
            )
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], base_lr)
        one = scheduler(optimizer, **numbers, **static)
        return [one._get_lr(int(count))[0] for count in COUNTS]

    return values


def drawing(**ranges):
    def one(rng, given):
        if isinstance(given, list):
            return rng.choice(given)
        return rng.randint(*given)

    return lambda rng: (
        {"base_lr": rng.uniform(0.01, 2.0)}
        | {name: one(rng, given) for name, given in ranges.items()}
    )


def case(scheduler, ours, draw, **static):
    name = "-".join([ours.__name__, *map(str, static.values())])
    return Case(
        name, lambda **n: ours(**n, **static), observed(scheduler, **static), draw
    )


def milestones(rng):
    steps = tuple(sorted(rng.choice([0, 1, 5, 9, 9, 20, 33]) for _ in range(3)))
    return drawing(decay_rate=[0.1, 0.5, 1.0], **WARM)(rng) | dict(decay_t=steps)


STAIRS = dict(decay_t=[1, 3, 7, 2.5], decay_rate=[0.1, 0.5, 1.0])
CASES = [
    *(
        row
        for prefix in (False, True)
        for row in (
            case(
                theirs.CosineLRScheduler,
                compat.cosine_lr_scheduler,
                drawing(**CYCLES, k_decay=[1.0, 0.7, 2.0]),
                warmup_prefix=prefix,
            ),
            case(
                theirs.StepLRScheduler,
                compat.step_lr_scheduler,
                drawing(**STAIRS, **WARM),
                warmup_prefix=prefix,
            ),
            case(
                theirs.MultiStepLRScheduler,
                compat.multi_step_lr_scheduler,
                milestones,
                warmup_prefix=prefix,
            ),
        )
    ),
]


@pytest.mark.parametrize("row", CASES, ids=str)
def test_values_are_those_of_timm(row):
    check(row)
