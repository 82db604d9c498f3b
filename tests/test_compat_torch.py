"""PyTorch's schedulers against vectors, by hand, and bad input."""

import json
import pathlib

import jax
import numpy as np
from test_schedules import curve

from stabjax.compat import torch as compat

VECTORS = json.loads(
    (pathlib.Path(__file__).parent / "vectors" / "torch_schedules.json").read_text()
)
CYCLE = dict(step_size_up=4, step_size_down=6, gamma=0.97)
MOMENTA = dict(base_momentum=0.8, max_momentum=0.95)
ONE_CYCLE = dict(total_steps=12, pct_start=0.3)


def inverse(e):
    return 1 / (1 + 0.1 * e)


def cyclic(mode):
    return (
        compat.cyclic_lr(0.1, 1.0, **CYCLE, mode=mode),
        compat.cyclic_momentum(**CYCLE, **MOMENTA, mode=mode),
    )


def one_cycle(strategy, three_phase):
    shape = dict(**ONE_CYCLE, anneal_strategy=strategy, three_phase=three_phase)
    return (
        compat.one_cycle_lr(1.0, **shape, div_factor=10, final_div_factor=100),
        compat.one_cycle_momentum(**shape, **MOMENTA),
    )


def from_vectors():
    return {
        "t_step": compat.step_lr(0.5, 4, 0.3),
        "t_multi": compat.multi_step_lr(0.5, [3, 7, 3], 0.4),
        "t_const": compat.constant_lr(0.8, 0.25, 4),
        "t_lin": compat.linear_lr(0.8, 0.2, 0.9, 6),
        "t_exp": compat.exponential_lr(0.8, 0.9),
        "t_poly": compat.polynomial_lr(0.8, 7, 2.5),
        "t_cos": compat.cosine_annealing_lr(0.9, 8, 0.1),
        "t_cawr": compat.cosine_annealing_warm_restarts(0.9, 4, 2, 0.05),
        "t_cyc_triangular": cyclic("triangular"),
        "t_cyc_triangular2": cyclic("triangular2"),
        "t_cyc_exp_range": cyclic("exp_range"),
        "t_oc2c": one_cycle("cos", three_phase=False),
        "t_oc2l": one_cycle("linear", three_phase=False),
        "t_oc3c": one_cycle("cos", three_phase=True),
        "t_oc3l": one_cycle("linear", three_phase=True),
        "t_mult": compat.multiplicative_lr(0.8, inverse),
        "t_lam": compat.lambda_lr(0.8, inverse),
        "t_seq": compat.sequential_lr(
            0.8,
            [
                compat.constant_lr(0.8, 0.1, 100),
                compat.linear_lr(0.8, 0.5, 1.0, 4),
                compat.exponential_lr(0.8, 0.9),
            ],
            [3, 8],
        ),
        "t_seqwc": compat.sequential_lr(
            0.8,
            [compat.linear_lr(0.8, 0.1, 1.0, 4), compat.cosine_annealing_lr(0.8, 8)],
            [4],
        ),
        "t_ch1": compat.chained_scheduler(
            0.8, [compat.constant_lr(0.8, 0.1, 5), compat.exponential_lr(0.8, 0.9)]
        ),
        "t_ch2": compat.chained_scheduler(
            0.8,
            [
                compat.linear_lr(0.8, 0.1, 1.0, 4),
                compat.cosine_annealing_lr(0.8, 8, 0.1),
            ],
        ),
    }


def test_vectors():
    counts = {
        name: np.array(vector["t"], np.float64) for name, vector in VECTORS.items()
    }

    @jax.jit
    def all_of_them(counts):
        schedules = from_vectors()
        return {
            name: jax.tree.map(lambda f: curve(f, counts[name]), schedules[name])  # noqa: B023
            for name in counts
        }

    with jax.enable_x64(True):
        found = all_of_them(counts)
    for name, vector in VECTORS.items():
        expected = vector["v"]
        if "m" in vector:
            np.testing.assert_allclose(found[name][1], vector["m"], 1e-12, err_msg=name)
            found[name] = found[name][0]
        assert found[name].dtype == np.float64
        np.testing.assert_allclose(
            found[name], expected, rtol=1e-12, atol=1e-16, err_msg=name
        )
