"""The schedules of transformers beside those of the transformers that are installed."""

import pytest
from libraries import COUNTS, Case, check

from stabjax.compat.huggingface import get_scheduler

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

WAVES = ("cosine_with_min_lr", "cosine_warmup_with_min_lr")
WSD = "warmup_stable_decay"
BOTH = ("W", "T")
CYCLES = {"num_cycles": [0.5, 0.75, 1.5]}
DECAY = {"num_decay_steps": [0, 1, 5, 12], "min_lr_ratio": [0.0, 0.1]}
# By name: the steps it takes, numbers of its own, and what is static.
NAMES = [
    ("constant", (), {}, {}),
    ("constant_with_warmup", ("W",), {}, {}),
    ("linear", BOTH, {}, {}),
    ("cosine", BOTH, CYCLES, {}),
    ("cosine_with_restarts", BOTH, {"num_cycles": [1, 2, 3, 4, 7]}, {}),
    ("polynomial", BOTH, {"power": [0.5, 1.0, 2.0, 3.3], "lr_end": [1e-7, 5e-3]}, {}),
    ("inverse_sqrt", ("W",), {}, {}),
    ("inverse_sqrt", ("W",), {"timescale": [1, 7, 40, 1000]}, {}),
    *((name, BOTH, {"min_lr": [0.0, 5e-3]}, {}) for name in WAVES),
    *((name, BOTH, {"min_lr_rate": [0.1, 0.7]} | CYCLES, {}) for name in WAVES),
    (WAVES[1], BOTH, {"min_lr_rate": [0.1], "warmup_lr_rate": [0.0, 0.3]}, {}),
    (WSD, BOTH, DECAY | CYCLES, {"warmup_type": "linear", "decay_type": "cosine"}),
    (WSD, BOTH, DECAY, {"warmup_type": "cosine", "decay_type": "1-sqrt"}),
    (WSD, BOTH, DECAY, {"warmup_type": "1-sqrt", "decay_type": "linear"}),
    (WSD, ("W",), {"num_decay_steps": [1, 8], "num_stable_steps": [0, 7]}, {}),
]
STEPS = {"W": "num_warmup_steps", "T": "num_training_steps"}


def case(name, steps, own, static):
    def split(numbers):
        given = {STEPS[step]: numbers[step] for step in steps}
        return given, {key: numbers[key] for key in own} | static

    def ours(base_lr, **numbers):
        given, kwargs = split(numbers)
        return get_scheduler(name, base_lr, **given, scheduler_specific_kwargs=kwargs)

    def theirs(base_lr, **numbers):
        given, kwargs = split(numbers)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], base_lr)
        scheduler = transformers.get_scheduler(
            name, optimizer, **given, scheduler_specific_kwargs=kwargs
        )
        (factor,) = scheduler.lr_lambdas
        return [base_lr * factor(int(count)) for count in COUNTS]

    def draw(rng):
        numbers = {"base_lr": rng.uniform(0.01, 2.0)}
        numbers |= {step: rng.choice([0, 1, 2, 5, 9, 14]) for step in steps}
        if "T" in steps:
            # A polynomial divides by zero, and knows no other end, at T = W.
            least = 1 if name == "polynomial" else -2
            numbers["T"] = max(numbers["W"] + rng.randint(least, 30), 0)
        return numbers | {key: rng.choice(values) for key, values in own.items()}

    return Case("-".join([name, *own, *static.values()]), ours, theirs, draw)


@pytest.mark.parametrize("row", [case(*row) for row in NAMES], ids=str)
def test_values_are_those_of_transformers(row):
    check(row)


def test_every_name_is_known():
    names = {kind.value for kind in transformers.SchedulerType}
    ours = {row[0] for row in NAMES}
    assert names - ours == {"reduce_lr_on_plateau", "greedy"}
