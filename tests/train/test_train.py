"""One training: against a plain loop, closed forms, and what is said of divergence."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stabjax
from stabjax.problems import Problem


def square(w, key):
    """Each step of gradient descent with rate r multiplies w by 1 - 2r."""
    del key
    return jnp.sum(w * w)


def noisy(w, key):
    return jnp.sum((w["a"] - jax.random.uniform(key, (3,))) ** 2) + jnp.abs(w["b"])


QUADRATIC = Problem(lambda key: jnp.array([3.0, -4.0]), square)
NOISY = Problem(
    lambda key: {"a": jax.random.uniform(key, (3,)), "b": jnp.array(2.0)},
    noisy,
    lambda w, key: {"norm": stabjax.global_norm(w), "draw": jax.random.uniform(key)},
)
KEY = jax.random.key(5)


def sgd(problem, rate, steps, **kwargs):
    return stabjax.train(problem, optax.sgd(rate), KEY, steps=steps, **kwargs)


def momentum():
    clip = stabjax.with_metrics(stabjax.clip_by_global_norm(1.5), name="clip")
    return optax.chain(clip, optax.sgd(0.1, momentum=0.9))


def plain_loop(problem, optimizer, key, steps):
    """The same training, written down step by step."""
    init_key, step_key = jax.random.split(key)
    params = problem.init(init_key)
    state = optimizer.init(params)
    losses, metrics = [], []
    for t in range(steps):
        step = jax.value_and_grad(problem.loss)
        loss, grads = step(params, jax.random.fold_in(step_key, t))
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(loss)
        metrics.append(stabjax.metrics(state))
    evaluation_key = jax.random.fold_in(jax.random.key(0), 2**31 - 1)
    return (
        params,
        problem.loss(params, evaluation_key),
        problem.evaluate(params, evaluation_key),
        np.array(losses),
        {name: np.array([m[name] for m in metrics]) for name in metrics[0]},
    )


@pytest.fixture(scope="module")
def looped():
    with jax.numpy_dtype_promotion("strict"):
        return plain_loop(NOISY, momentum(), KEY, 10)


@pytest.mark.parametrize("record_every", [None, 1, 4])
def test_equals_a_plain_loop(looped, record_every):
    params, final_loss, evaluation, losses, metrics = looped
    run = stabjax.train(NOISY, momentum(), KEY, steps=10, record_every=record_every)
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5),
        (run.params, run.final_loss, run.evaluation),
        (params, final_loss, evaluation),
    )
    best = min(losses.min(), final_loss)
    np.testing.assert_allclose(run.best_loss, best, rtol=1e-5)
    assert (int(run.status), int(run.diverged_at)) == (0, 10)
    if record_every is None:
        assert run.loss is None
        assert run.metrics == {}
        return
    np.testing.assert_allclose(run.loss, losses[::record_every], rtol=1e-5)
    assert run.metrics.keys() == metrics.keys()
    for name, values in run.metrics.items():
        np.testing.assert_allclose(values, metrics[name][::record_every], rtol=1e-5)


@pytest.mark.slow
def test_trainings_with_one_key_are_paired():
    def training(rate, seed):
        key = jax.random.key(seed)
        return stabjax.train(NOISY, optax.sgd(rate), key, steps=2, record_every=1)

    runs = jax.vmap(training)(jnp.array([0.1, 0.2, 0.1]), jnp.array([5, 5, 6]))
    assert runs.loss[0, 0] == runs.loss[1, 0] != runs.loss[2, 0]
    assert runs.loss[0, 1] != runs.loss[1, 1]
    assert len(set(runs.evaluation["draw"].tolist())) == 1  # on a key of its own


def test_old_keys_are_keys():
    old = stabjax.train(NOISY, optax.sgd(0.1), jax.random.PRNGKey(5), steps=2)
    assert old.final_loss == sgd(NOISY, 0.1, 2).final_loss


def test_diverges_beyond_the_stable_rate_at_the_step_the_closed_form_says():
    rates = np.array([0.3, 0.99, 1.01, 1.2, 2.0, 30.0], np.float32)
    run = jax.vmap(lambda rate: sgd(QUADRATIC, rate, 400, record_every=1))(rates)
    growth = np.abs(1 - 2 * np.float64(rates))
    # 25 * growth**(2t) first exceeds 25 * 1000.
    with np.errstate(divide="ignore"):
        first = np.floor(np.log(1000) / (2 * np.log(growth))) + 1
    first = np.where(rates > 1, first, 400)
    np.testing.assert_array_equal(run.diverged_at, first)
    np.testing.assert_array_equal(run.status, rates > 1)
    held = rates < 1
    np.testing.assert_allclose(
        run.final_loss[held], 25 * growth[held] ** 800, rtol=1e-3, atol=1e-30
    )
    assert np.isinf(run.final_loss[~held]).all()
    assert np.isinf(run.best_loss[~held]).all()
    steps = np.arange(400)
    np.testing.assert_array_equal(np.isinf(run.loss), steps >= first[:, None])
    assert not np.isnan(run.loss).any()


def test_types():
    run = sgd(NOISY, 0.1, 3, record_every=2)
    assert run.status.dtype == jnp.int8
    assert run.diverged_at.dtype == jnp.int32
    assert run.final_loss.dtype == run.loss.dtype == jnp.float32


@pytest.mark.parametrize(("steps", "at"), [(2, 2), (3, 2), (4, 3), (5, 3)])
def test_a_final_loss_that_diverged_counts_for_the_last_step(steps, at):
    # With rate 6 the loss grows 121-fold a step: the bound of 1e5 falls at step 3, and
    # a training of three steps reaches it with its last one, which is step 2.
    run = sgd(QUADRATIC, 6.0, steps, divergence_factor=1e5, record_every=1)
    assert int(run.diverged_at) == at
    assert int(run.status) == (at < steps)
    np.testing.assert_array_equal(np.isinf(run.loss), np.arange(steps) >= at)


@pytest.mark.parametrize(
    ("rate", "at"),
    [(0.1, 2), (0.25, 1)],  # 0.5, 0.3, -0.03: NaN; 0.5, 0: -inf
)
def test_any_loss_that_is_not_finite_is_a_divergence(rate, at):
    logarithm = Problem(lambda key: jnp.array(0.5), lambda w, key: jnp.log(w))
    run = sgd(logarithm, rate, 6, record_every=1)
    assert (int(run.status), int(run.diverged_at)) == (1, at)
    assert run.final_loss == run.best_loss == jnp.inf
    assert np.isfinite(run.loss[:at]).all()
    assert (run.loss[at:] == jnp.inf).all()


def test_diverged_from_the_start():
    lost = Problem(lambda key: jnp.array(1.0), lambda w, key: w * jnp.nan)
    assert int(sgd(lost, 0.1, 3).diverged_at) == 0


def test_a_loss_that_starts_at_or_below_zero_has_no_bound():
    shifted = Problem(lambda key: jnp.array(1.0), lambda w, key: w * w - 2)
    run = sgd(shifted, 2.0, 5)  # triples w in each step
    assert int(run.status) == 0
    np.testing.assert_allclose(run.final_loss, 3.0**10 - 2)
    assert run.best_loss == -1


def test_divergence_factor_is_traceable():
    def status(factor):
        return sgd(QUADRATIC, 2.0, 5, divergence_factor=factor).status  # 9-fold a step

    factors = jnp.array([1.0, 9.0**4, 9.0**5, jnp.inf])
    np.testing.assert_array_equal(jax.jit(jax.vmap(status))(factors), [1, 1, 0, 0])
    assert int(status(jnp.inf)) == 0


def test_evaluation_of_a_diverged_training_is_infinite_where_it_is_not_finite():
    def evaluate(w, key):
        return {"overflow": jnp.exp(abs(w).max()) - jnp.inf, "share": (w > 0).mean()}

    problem = replace(QUADRATIC, evaluate=evaluate)
    run = jax.vmap(lambda rate: sgd(problem, rate, 9))(jnp.array([0.1, 3.0]))
    np.testing.assert_array_equal(run.status, [0, 1])
    np.testing.assert_array_equal(run.evaluation["overflow"], [-np.inf, np.inf])
    assert np.isfinite(run.evaluation["share"]).all()  # as an accuracy would be


def score_of(losses):
    """The convergence score as the paper computes it from all losses."""
    losses = np.where(np.isfinite(losses), losses, 1e6)
    losses = np.minimum(losses / losses[0], 1e6)
    return -losses.sum() if losses[-20:].mean() < 1 else (1 / losses).sum()


def test_summaries_are_those_of_all_losses():
    @jax.jit
    @jax.vmap
    def training(rate):
        names = ("mean_loss", "convergence_score")
        run = sgd(QUADRATIC, rate, 40, summaries=names, target_loss=1.0)
        return run.summaries, run.status

    rates = np.array([0.01, 0.1, 0.3, 0.99, 1.05, 30.0], np.float32)
    summaries, status = training(rates)
    steps = np.arange(41)
    losses = 25 * (1 - 2 * np.float64(rates)[:, None]) ** (2 * steps)
    losses = np.where(losses > np.finfo(np.float32).max, np.inf, losses)
    reached = np.where((losses <= 1).any(1), (losses <= 1).argmax(1), np.inf)
    lost = np.array([0, 0, 0, 0, 1, 1])  # the first of them by its 37th step
    np.testing.assert_array_equal(status, lost)
    np.testing.assert_array_equal(summaries["target_at"], reached)
    assert (reached[0], reached[1], np.isinf(reached[3])) == (np.inf, 8, True)
    expected = np.where(lost, np.inf, losses[:, :-1].mean(axis=1))
    np.testing.assert_allclose(summaries["mean_loss"], expected, rtol=1e-4)
    expected = [score_of(curve) for curve in losses[:, :-1]]
    np.testing.assert_allclose(summaries["convergence_score"], expected, rtol=1e-4)


def test_a_target_that_the_final_loss_alone_reaches():
    def target_at(target):
        return sgd(QUADRATIC, 0.25, 4, target_loss=target).summaries["target_at"]

    targets = jnp.array([25 * 0.25**4, 25 * 0.25**3, 30.0, 0.01])
    np.testing.assert_array_equal(jax.vmap(target_at)(targets), [4, 3, 0, np.inf])


def test_summaries_leave_derivatives_alone():
    def mean_loss(rate):
        names = ("mean_loss", "convergence_score")
        return sgd(QUADRATIC, rate, 3, summaries=names).summaries["mean_loss"]

    # (25 + 25 a^2 + 25 a^4) / 3 with a = 1 - 2r; at r = 1/2 all later losses are zero.
    slopes = jax.vmap(jax.grad(mean_loss))(jnp.array([0.25, 0.5]))
    np.testing.assert_allclose(slopes, [-25 * (4 * 0.5 + 8 * 0.125) / 3, 0], rtol=1e-5)


def test_evaluations_are_averaged_over_keys():
    run = sgd(NOISY, 0.1, 3, evaluations=4)
    keys = [jax.random.fold_in(jax.random.key(0), 2**31 - 1 - i) for i in range(4)]
    draws = [jax.random.uniform(key) for key in keys]
    np.testing.assert_allclose(run.evaluation["draw"], np.mean(draws), rtol=1e-6)
    losses = [noisy(run.params, key) for key in keys]
    np.testing.assert_allclose(run.final_loss, np.mean(losses), rtol=1e-6)


def clipped(max_norm, rate=0.01):
    clip = stabjax.clip_by_global_norm(max_norm)
    return stabjax.train(
        QUADRATIC, optax.chain(clip, optax.sgd(rate)), KEY, steps=50
    ).final_loss


@pytest.mark.slow
def test_final_loss_is_differentiable_by_the_threshold():
    # While the clip is on, |w| falls by rate * c in each step: L = (5 - 0.5 c)**2.
    thresholds = jnp.array([0.5, 1.0, 2.0])
    slopes = jax.vmap(jax.grad(clipped))(thresholds)
    np.testing.assert_allclose(slopes, -(5 - 0.5 * thresholds), rtol=1e-4)
    step = 1e-2
    low, high = jax.vmap(clipped)(jnp.array([1 - step, 1 + step]))
    np.testing.assert_allclose(slopes[1], (high - low) / (2 * step), rtol=1e-3)


def test_a_diverged_neighbour_leaves_a_gradient_alone():
    def first(rate):
        rates = jnp.stack([rate, jnp.asarray(2.0)])
        runs = jax.vmap(lambda rate: sgd(QUADRATIC, rate, 200))(rates)
        return runs.final_loss[0], runs.status

    slope, status = jax.grad(first, has_aux=True)(0.01)
    np.testing.assert_array_equal(status, [0, 1])
    # d/dr 25 (1 - 2r)**400
    np.testing.assert_allclose(slope, -25 * 800 * 0.98**399, rtol=1e-3)


def test_optimizers_get_the_loss_and_the_gradient():
    def update(updates, state, params=None, *, value, grad, **extra_args):
        del state, params, extra_args
        seen = {"seen/value": value, "seen/grad": stabjax.global_norm(grad)}
        return updates, Seen(seen)

    class Seen(NamedTuple):
        metrics: dict

    start = Seen({"seen/value": jnp.zeros(()), "seen/grad": jnp.zeros(())})
    watch = optax.GradientTransformationExtraArgs(lambda params: start, update)
    optimizer = optax.chain(optax.scale(-0.25), watch)
    run = stabjax.train(QUADRATIC, optimizer, KEY, steps=3, record_every=1)
    np.testing.assert_allclose(run.loss, [25.0, 6.25, 1.5625], rtol=1e-6)
    np.testing.assert_array_equal(run.metrics["seen/value"], run.loss)
    np.testing.assert_allclose(run.metrics["seen/grad"], [10, 5, 2.5], rtol=1e-6)


def test_short_floats_keep_their_type_and_are_judged_in_float32():
    half = Problem(
        lambda key: {"w": jnp.array([3.0, -4.0], jnp.float16)},
        lambda w, key: square(w["w"], key),
    )
    run = sgd(half, 0.25, 8, record_every=4)
    assert run.params["w"].dtype == jnp.float16
    assert run.final_loss.dtype == run.loss.dtype == jnp.float32
    assert int(run.status) == 0  # 1000 times the first loss is beyond float16
    np.testing.assert_allclose(run.final_loss, 25 * 0.25**8, rtol=1e-2)


@pytest.mark.parametrize("record_every", [None, 1, 3])
def test_loss_is_traced_once(record_every):
    traces = []

    def loss(w, key):
        traces.append(None)
        return square(w, key)

    def run(rate):
        problem = Problem(QUADRATIC.init, loss)
        return sgd(problem, rate, 10, record_every=record_every).final_loss

    np.testing.assert_allclose(jax.jit(run)(0.25), 25 * 0.25**10, rtol=1e-5)
    assert len(traces) == 1


def test_problems_may_be_made_of_traced_numbers():
    def final_loss(sharpness):
        problem = Problem(QUADRATIC.init, lambda w, key: sharpness * square(w, key))
        return sgd(problem, 0.1, 4, record_every=4).final_loss

    sharpness = jnp.array([0.5, 1.0, 2.0])
    expected = sharpness * 25 * (1 - 0.2 * sharpness) ** 8
    np.testing.assert_allclose(jax.vmap(final_loss)(sharpness), expected, rtol=1e-5)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(final_loss))(sharpness), expected, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be an integer >= 1, got 0"),
        ({"steps": 2.0}, TypeError, "steps must be an integer >= 1, .* got 2.0"),
        ({"steps": True}, TypeError, "steps must be an integer >= 1, .* got True"),
        (
            {"record_every": 0},
            ValueError,
            r"record_every .* integer in \[1, 3\]",
        ),
        ({"record_every": 4}, ValueError, "record_every must be .* got 4"),
        ({"divergence_factor": 0.0}, ValueError, "divergence_factor must be > 0"),
        ({"divergence_factor": np.nan}, ValueError, "divergence_factor must be > 0"),
        ({"divergence_factor": "off"}, TypeError, "divergence_factor must be a num"),
        ({"summaries": "mean_loss"}, TypeError, "summaries must be a list of names"),
        ({"summaries": ["auc"]}, ValueError, "summaries must be 'mean_loss' or"),
        ({"target_loss": np.nan}, ValueError, r"target_loss must be in \(-inf, inf\)"),
        ({"evaluations": 0}, ValueError, "evaluations must be an integer >= 1"),
        ({"key": 0}, TypeError, "key must be a key such as .* got int"),
    ],
)
def test_bad_arguments(arguments, error, message):
    arguments = {"key": KEY, "steps": 3, **arguments}
    with pytest.raises(error, match=message):
        stabjax.train(QUADRATIC, optax.sgd(0.1), **arguments)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (
            replace(QUADRATIC, loss=lambda w, key: w),
            r"of shape \(2,\) and type float32",
        ),
        (
            replace(QUADRATIC, loss=lambda w, key: w.sum() > 0),
            "and type bool",
        ),
        (
            replace(QUADRATIC, loss=lambda w, key: (w.sum(), w)),
            "got a tuple",
        ),
        (
            replace(QUADRATIC, init=lambda key: [1, 2.0]),
            r"got int32 at params\[0\]",
        ),
        (
            replace(QUADRATIC, evaluate=square),
            "evaluate must return a dict of scalars",
        ),
        (
            replace(QUADRATIC, evaluate=lambda w, key: {"w": w}),
            r"evaluate must return a dict of scalars, got \{'w': \(2,\)\}",
        ),
    ],
)
def test_bad_problems(problem, message):
    with pytest.raises(TypeError, match=message):
        sgd(problem, 0.1, 3)


@pytest.mark.parametrize(
    "leaf, shown",
    [(jax.nn.relu, "relu"), (3, "int32"), ("tanh", "str"), (True, "bool")],
)
def test_a_leaf_that_is_not_an_array_is_named_by_its_path(leaf, shown):
    """As an Equinox module holds its activation."""
    problem = Problem(
        lambda key: {"w": jnp.ones(2), "act": leaf}, lambda w, key: jnp.sum(w["w"] ** 2)
    )
    message = rf"must return floating-point arrays, got {shown} at params\['act'\]"
    with pytest.raises(TypeError, match=message):
        stabjax.train(problem, optax.sgd(0.1), jax.random.key(0), steps=3)
