"""PyTorch's schedulers against vectors, by hand, and bad input."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curves import curve

from stabjax.compat import torch as compat

VECTORS = json.loads(
    (pathlib.Path(__file__).parents[1] / "vectors" / "torch_schedules.json").read_text()
)
CYCLE = dict(step_size_up=4, step_size_down=6, gamma=0.97)
ONE_CYCLE = dict(total_steps=12, pct_start=0.3)


def inverse(e):
    return 1 / (1 + 0.1 * e)


def cyclic(mode):
    return (
        compat.cyclic_lr(0.1, 1.0, **CYCLE, mode=mode),
        compat.cyclic_lr(0.95, 0.8, **CYCLE, mode=mode),
    )


def one_cycle(strategy, three_phase):
    shape = dict(**ONE_CYCLE, anneal_strategy=strategy, three_phase=three_phase)
    return (
        compat.one_cycle_lr(1.0, **shape, div_factor=10, final_div_factor=100),
        compat.one_cycle_lr(0.8, **shape, div_factor=0.8 / 0.95, final_div_factor=1),
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
            momenta = found[name][1]
            found[name] = found[name][0]
            np.testing.assert_allclose(momenta, vector["m"], 1e-12, err_msg=name)
        assert found[name].dtype == np.float64
        np.testing.assert_allclose(
            found[name], expected, rtol=1e-12, atol=1e-16, err_msg=name
        )


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("step_lr", (0.1, 0), "step_size must be > 0, got 0"),
        ("constant_lr", (0.1, 1.5), r"factor must be in \[0, 1\], got 1.5"),
        ("constant_lr", (0.1, -0.1), r"factor must be in \[0, 1\], got -0.1"),
        ("linear_lr", (0.1, 0.0), r"start_factor must be in \(0, 1\]"),
        ("linear_lr", (0.1, 1.1), r"start_factor must be in \(0, 1\]"),
        ("linear_lr", (0.1, 0.5, 1.1), r"end_factor must be in \[0, 1\], got 1.1"),
        ("cosine_annealing_lr", (0.1, 0), "T_max must be > 0, got 0"),
        ("cosine_annealing_warm_restarts", (0.1, 0), "T_0 must be an integer >= 1"),
        (
            "cosine_annealing_warm_restarts",
            (0.1, 2.5),
            "T_0 must be an integer >= 1",
        ),
        (
            "cosine_annealing_warm_restarts",
            (0.1, 4, 0),
            "T_mult must be an integer >= 1",
        ),
        (
            "cosine_annealing_warm_restarts",
            (0.1, 4, 1.5),
            "T_mult must be an integer >= 1",
        ),
        ("cyclic_lr", (0.1, 1.0, 0), "step_size_up must be > 0, got 0"),
        ("cyclic_lr", (0.1, 1.0, 5, 5, "square"), "mode must be 'triangular'"),
        ("cyclic_lr", (0.1, 1.0, 5, -1), "step_size_down must be > 0, got -1"),
        ("one_cycle_lr", (0.1,), "total_steps, or both epochs and steps_per"),
        ("one_cycle_lr", (0.1, None, 5), "got epochs=5 and steps_per_epoch=None"),
        ("one_cycle_lr", (0.1, 0), "total_steps must be an integer >= 1, got 0"),
        ("one_cycle_lr", (0.1, 9.5), "total_steps must be an integer >= 1, got 9.5"),
        ("one_cycle_lr", (0.1, None, 0, 3), "epochs must be an integer >= 1, got 0"),
        (
            "one_cycle_lr",
            (0.1, None, 3, -1),
            "steps_per_epoch must be an integer >= 1",
        ),
        (
            "one_cycle_lr",
            (0.1, 9, None, None, 1.5),
            r"pct_start must be in \[0, 1\]",
        ),
        (
            "one_cycle_lr",
            (0.1, 9, None, None, 0.3, "exp"),
            "anneal_strategy must be 'cos' or 'linear', got 'exp'",
        ),
        ("sequential_lr", (0.1, [], []), "at least one scheduler, got none"),
        ("sequential_lr", (0.1, [abs, abs], []), "got 0 milestones and 2 schedulers"),
        ("chained_scheduler", (0.1, []), "at least one scheduler, got none"),
    ],
)
def test_a_bad_value_is_refused_by_name(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(compat, name)(*arguments)


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("step_lr", ("0.1", 30), "base_lr must be a number, got '0.1'"),
        ("cosine_annealing_lr", (0.1, None), "T_max must be a number, got None"),
        (
            "lambda_lr",
            (0.1, 0.9),
            "lr_lambda must be a function of the count, got 0.9",
        ),
        (
            "multiplicative_lr",
            (0.1, [abs]),
            "lr_lambda must be a function of the count",
        ),
        (
            "chained_scheduler",
            (0.1, [3]),
            "schedulers must be a function of the count",
        ),
        (
            "sequential_lr",
            (0.1, [3], []),
            "schedulers must be a function of the count",
        ),
    ],
)
def test_a_bad_type_is_refused_by_name(name, arguments, message):
    with pytest.raises(TypeError, match=message):
        getattr(compat, name)(*arguments)


def test_a_bad_traced_value_gives_nan():
    @jax.jit
    def values(bad):
        return [
            compat.step_lr(0.1, bad)(3),
            compat.constant_lr(0.1, bad)(3),
            compat.linear_lr(0.1, bad)(3),
            compat.cosine_annealing_lr(0.1, bad)(3),
            compat.cosine_annealing_warm_restarts(0.1, bad)(3),
            compat.cyclic_lr(0.1, 1.0, bad)(3),
            compat.one_cycle_lr(0.1, bad)(3),
            compat.one_cycle_lr(0.1, 9, pct_start=bad)(3),
            compat.one_cycle_lr(0.1, 9, div_factor=bad)(3),
        ]

    assert np.isnan(values(-1.0)).all()


# Where PyTorch raises.


@pytest.mark.parametrize(
    "strategy, last", [("cos", 0.03552856255), ("linear", -0.1179285714)]
)
def test_one_cycle_ends_at_its_final_value_after_an_overshoot(strategy, last):
    schedule, _ = one_cycle(strategy, three_phase=False)
    found = schedule(jnp.array([11, 12, 13, 500]))
    np.testing.assert_allclose(found, [1e-3, last, 1e-3, 1e-3], 1e-5)


@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
def test_one_cycle_is_exact_at_the_last_of_its_steps(strategy, three_phase):
    schedule, momentum = one_cycle(strategy, three_phase)
    last = jnp.array([11])
    np.testing.assert_array_equal(schedule(last), np.float32(1 / 10 / 100))
    np.testing.assert_array_equal(momentum(last), np.float32(0.95))


def test_one_cycle_leaves_out_a_phase_without_steps():
    # In PyTorch the first cannot be made, and the other divides by zero at step 10.
    starts = compat.one_cycle_lr(1.0, 10, pct_start=0.1)
    assert starts(0) == 1.0 and starts(9) < 1e-5
    ends = compat.one_cycle_lr(1.0, 10, pct_start=1.0)
    np.testing.assert_array_equal(ends(jnp.array([9, 10, 11])), 1.0)


def test_constant_from_nothing():
    schedule = compat.constant_lr(0.8, factor=0.0, total_iters=3)
    np.testing.assert_allclose(schedule(jnp.arange(5)), [0, 0, 0, 0.8, 0.8], 1e-6)


# Products over the steps.


def test_derivatives_of_a_product_over_the_steps():
    """By everything that the function closes over, in either mode, also through 0."""
    t = 6

    def value(base_lr, x):
        return compat.multiplicative_lr(base_lr, lambda e: x - 0.25 * e)(t)

    def factors(x):
        return [x - 0.25 * e for e in range(1, t + 1)]

    for x in (2.0, 1.0):  # at 1 one of the factors is 0
        product = np.prod(factors(x))
        rest = [np.prod(np.delete(factors(x), i)) for i in range(t)]
        for derivative in (jax.grad, jax.jacfwd):
            by_base, by_x = jax.jit(derivative(value, (0, 1)))(0.8, x)
            np.testing.assert_allclose(by_base, product, 1e-5, 1e-7)
            np.testing.assert_allclose(by_x, 0.8 * sum(rest), 1e-5)


def test_a_product_is_traced_once_and_takes_counts_of_any_shape():
    traces = []

    def slope(count):
        traces.append(1)
        return 0.9

    schedule = compat.multiplicative_lr(1.0, slope)
    values = [float(schedule(count)) for count in range(4)]
    np.testing.assert_allclose(values, 0.9 ** np.arange(4), 1e-6)
    before = len(traces)
    np.testing.assert_allclose(
        schedule(jnp.array([[5], [2]])), [[0.59049], [0.81]], 1e-6
    )
    assert len(traces) == before


@pytest.mark.parametrize("make", [compat.lambda_lr, compat.multiplicative_lr])
@pytest.mark.parametrize(
    "function",
    [
        lambda count: 1.0 if count < 10 else 0.1,
        lambda count: 0.5 ** float(count),
        lambda count: 1.0 / [1, 2, 4][count],
    ],
)
def test_functions_with_a_python_branch_on_a_traced_count_are_explained(make, function):
    message = r"lr_lambda must not use a traced array in a Python branch.*jnp\.where"
    with pytest.raises(TypeError, match=message):
        jax.jit(make(0.8, function))(2)
    chained = compat.chained_scheduler(0.8, [compat.lambda_lr(0.8, function)])
    with pytest.raises(TypeError, match=message):
        jax.jit(chained)(2)
