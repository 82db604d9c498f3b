"""Evaluation on the way, and early stopping."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stabjax
from stabjax.problems import Problem

KEY = jax.random.key(0)
# The weight falls by a tenth at each step, so the measure is smallest at 0.59049.
PROBLEM = Problem(
    init=lambda key: (jnp.ones(()), jnp.zeros(())),
    loss=lambda w, state: (w**2 / 2, state + 1),
    evaluate=lambda w, state: {
        "test_loss": jnp.abs(w - 0.59),
        "accuracy": 1 - jnp.abs(w - 0.59),
        "score": w,
    },
)


def train(rate=0.1, **kwargs):
    given = {"steps": 20, "evaluate_every": 1, **kwargs}
    return stabjax.train(PROBLEM, optax.sgd(rate), KEY, **given)


@pytest.mark.parametrize("record_every", [None, 1, 2])
def test_curves_are_evaluations_after_every_n_updates(record_every):
    run = train(steps=9, evaluate_every=2, record_every=record_every)
    expected = 0.9 ** np.array([2, 4, 6, 8])
    np.testing.assert_allclose(run.curves["score"], expected, rtol=1e-5)
    np.testing.assert_allclose(run.evaluation["score"], 0.9**9, rtol=1e-5)
    if record_every:
        at = np.arange(0, 9, record_every)
        np.testing.assert_allclose(run.loss, 0.5 * 0.9 ** (2 * at), rtol=1e-5)
    assert run.best is None and run.stopped_at is None


@pytest.mark.parametrize("variable", ["test_loss", "accuracy"])
def test_a_run_stops_after_its_patience_and_keeps_the_best(variable):
    rule = stabjax.EarlyStopping(variable, patience=3)
    run = train(stop=rule, record_every=1)
    assert (int(run.best.at), int(run.stopped_at)) == (5, 8)
    np.testing.assert_allclose(run.best.params, 0.9**5, rtol=1e-5)
    np.testing.assert_allclose((run.best.state, run.state), (5, 8))
    np.testing.assert_allclose(run.params, 0.9**8, rtol=1e-5)
    assert np.isnan(run.curves[variable][8:]).all()
    assert np.isnan(run.loss[8:]).all() and np.isfinite(run.loss[:8]).all()
    assert int(run.status) == 0 and int(run.diverged_at) == 20
    np.testing.assert_allclose(run.final_loss, 0.9**16 / 2, rtol=1e-5)


def test_a_run_stops_at_its_target_and_within_min_delta():
    rule = stabjax.EarlyStopping("score", maximize=False, target=0.7)
    assert int(train(stop=rule).stopped_at) == 4
    rule = stabjax.EarlyStopping("score", 1, min_delta=0.05, maximize=False)
    assert int(train(stop=rule).stopped_at) == 8  # 0.9^7 - 0.9^8 < 0.05
    rule = stabjax.EarlyStopping("score", np.inf, maximize=True)
    assert int(train(stop=rule).stopped_at) == 20


def test_a_function_stops_a_run_alone_or_beside_a_rule():
    def small(score, step, least=0.7):
        return (score < least) & (step > 1)

    run = train(stop=small)
    assert int(run.stopped_at) == 4 and run.best is None
    np.testing.assert_allclose(run.params, 0.9**4, rtol=1e-5)
    assert np.isnan(run.curves["score"][4:]).all()
    for patience, expected in ((1, 4), (np.inf, 4)):
        rule = stabjax.EarlyStopping("test_loss", patience, when=small)
        run = train(stop=rule)
        assert (int(run.stopped_at), int(run.best.at)) == (expected, 4)
    rule = stabjax.EarlyStopping("test_loss", 2, when=lambda score: score < 0.1)
    assert int(train(stop=rule).stopped_at) == 7


@pytest.mark.slow
@pytest.mark.parametrize("every", [2, 3])
def test_a_batch_of_runs_is_each_of_them_alone(every):
    """Bit for bit, with runs that stop, diverge and end at different steps."""
    rates = jnp.array([0.01, 0.1, 0.3, 2.5, 0.5])

    def run(rate):
        rule = stabjax.EarlyStopping("test_loss", patience=2)
        return train(rate, stop=rule, evaluate_every=every, divergence_factor=10.0)

    together = jax.jit(jax.vmap(run))(rates)
    for number, rate in enumerate(rates):
        alone = jax.tree.map(lambda x: x[number], together)  # noqa: B023
        chex.assert_trees_all_close(alone, jax.jit(run)(rate), rtol=1e-6)
    assert len(set(together.stopped_at.tolist())) > 2
    assert together.status.tolist() == [0, 0, 0, 1, 0]
    assert jnp.isinf(together.curves["test_loss"][3, -1])  # not NaN: it was lost


def test_all_runs_of_a_batch_that_are_done_end_the_loop():
    steps = []

    def evaluate(w, state, step):
        jax.debug.callback(lambda step: steps.append(int(step)), step)
        return {"test_loss": w}

    problem = Problem(PROBLEM.init, PROBLEM.loss, evaluate)

    def run(rate):
        rule = stabjax.EarlyStopping("test_loss", 1, target=0.5)
        given = {"steps": 1000, "evaluate_every": 1, "stop": rule}
        return stabjax.train(problem, optax.sgd(rate), KEY, **given).stopped_at

    stopped = jax.jit(jax.vmap(run))(jnp.array([0.1, 0.2]))
    jax.effects_barrier()
    assert stopped.tolist() == [7, 4]
    assert sorted({*steps}) == [*range(1, 8), 1000]  # and the final evaluation


def test_forward_derivatives_pass_through_early_stopping():
    def final_loss(rate, **given):
        given |= {"steps": 10, "evaluate_every": 2}
        return stabjax.train(PROBLEM, optax.sgd(rate), KEY, **given).final_loss

    rule = stabjax.EarlyStopping("test_loss", patience=9)
    stopped = lambda rate: final_loss(rate, stop=rule)  # noqa: E731
    found = jax.jvp(stopped, (0.1,), (1.0,))[1]
    np.testing.assert_allclose(found, jax.grad(final_loss)(0.1), 1e-6)


def test_the_parameters_of_a_function_may_be_positional_only():
    def stop(step, /, test_loss):
        return (step >= 3) & (test_loss < 9)

    given = {"steps": 5, "evaluate_every": 1, "stop": stop}
    assert stabjax.train(PROBLEM, optax.sgd(0.1), KEY, **given).stopped_at == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"evaluate_every": 0}, ValueError, r"evaluate_every .* in \[1, 20\], got 0"),
        (
            {"evaluate_every": 3, "record_every": 2},
            ValueError,
            "evaluate_every must be a multiple of record_every, got 3 and 2",
        ),
        (
            {"evaluate_every": None, "stop": stabjax.EarlyStopping("test_loss")},
            ValueError,
            "evaluate_every must be given with stop",
        ),
        ({"stop": "test_loss"}, TypeError, "stop must be a rule such as .* got 'test"),
        (
            {"stop": lambda val_loss, step: val_loss > 1},
            TypeError,
            "the function of stop must name its parameters from accuracy, score, step, "
            "test_loss, got val_loss",
        ),
        (
            {"stop": lambda *values: True},
            TypeError,
            r"the function of stop must name .*, got \*values",
        ),
        (
            {"stop": lambda test_loss: test_loss},
            TypeError,
            r"stop must return a boolean scalar, got float32 of shape \(\)",
        ),
        (
            {"stop": lambda test_loss: None},
            TypeError,
            "must return a boolean scalar, got NoneType of shape",
        ),
        (
            {"stop": lambda test_loss: test_loss > 1 and test_loss > 2},
            TypeError,
            "the function of stop must not use a traced array in a Python branch",
        ),
        (
            {"stop": stabjax.EarlyStopping("test_loss", when=3)},
            TypeError,
            "when must be a function, got 3",
        ),
        (
            {"stop": stabjax.EarlyStopping("test")},
            ValueError,
            "maximize must be given to EarlyStopping because .* 'test' are",
        ),
        (
            {"stop": stabjax.EarlyStopping("val_loss")},
            ValueError,
            "the variable of stop must be .*'test_loss', got 'val_loss'",
        ),
        (
            {"stop": stabjax.EarlyStopping("test_loss", 0)},
            ValueError,
            "patience must be an integer >= 1, got 0",
        ),
        ({"steps": None}, TypeError, "steps or epochs must be given, and not both"),
        ({"epochs": 2}, TypeError, "steps or epochs must be given, and not both"),
        (
            {"steps": None, "epochs": 2},
            ValueError,
            r"problem must have metadata\['steps_per_epoch'\] .* Use a number of steps",
        ),
        ({"evaluate_every": "epoch"}, ValueError, "steps_per_epoch"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(arguments, error, message):
    with pytest.raises(error, match=message):
        train(**arguments)


def test_epochs_are_steps_of_the_data():
    x = np.ones((10, 1), np.float32)
    problem = stabjax.problems.supervised(
        (lambda key: {"w": jnp.ones((1, 1))}, lambda params, x: x @ params["w"]),
        x,
        x,
        optax.squared_error,
        batch_size=3,
    )
    run = stabjax.train(
        problem,
        optax.sgd(0.1),
        KEY,
        epochs=2,
        evaluate_every="epoch",
        record_every=1,
    )
    assert run.loss.shape == (6,) and run.curves["train_loss"].shape == (2,)
