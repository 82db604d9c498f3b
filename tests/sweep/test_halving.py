"""Successive halving: who survives, what it costs, what is told of the dropped."""

import concurrent.futures
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trainings import assert_same_bits, chunk_files

import stabjax
from stabjax._sweep import executors
from stabjax._sweep.store import Store


def make_optimizer(rate, kind="sgd"):
    return optax.sgd(rate, momentum=0.5 if kind == "heavy" else None)


def evaluate(w, key):
    del key
    return {"size": jnp.sum(jnp.abs(w))}


PROBLEM = stabjax.problems.Problem(
    lambda key: jnp.array([3.0, -4.0]) * jax.random.uniform(key, (2,), minval=0.5),
    lambda w, key: jnp.sum((w - 0.01 * jax.random.normal(key, (2,))) ** 2),
    evaluate,
)
RATES = np.logspace(-3, 1, 18)
SPACE = stabjax.grid(rate=RATES, kind=["sgd", "heavy"], seed=range(3))


@pytest.fixture(scope="module")
def both():
    with jax.numpy_dtype_promotion("strict"):
        full = stabjax.sweep(PROBLEM, make_optimizer, SPACE, steps=36)
        halved = stabjax.successive_halving(
            PROBLEM, make_optimizer, SPACE, steps=36, rungs=3, eta=3
        )
    return full, halved


def test_rungs_and_budget(both):
    _, halved = both
    assert halved.rung.values.tolist() == [4, 12, 36]
    assert halved.trained_steps.dims == ("rate", "kind", "seed")
    steps, counts = np.unique(halved.trained_steps.isel(seed=0), return_counts=True)
    assert steps.tolist() == [4, 12, 36]
    assert counts.tolist() == [24, 8, 4]  # of 36 points 12 go on, and 4 of them
    expected = (24 * 4 + 8 * 12 + 4 * 36) / (36 * 36)
    np.testing.assert_allclose(halved.attrs["share_of_steps"], expected, atol=1e-4)
    # All seeds of a point go together.
    assert (halved.trained_steps == halved.trained_steps.isel(seed=0)).all()


def test_survivors_are_the_trainings_of_the_sweep(both):
    full, halved = both
    kept = halved.trained_steps == 36
    for name in ("final_loss", "best_loss", "status", "diverged_at", "size"):
        expected, found = full[name].values[kept], halved[name].values[kept]
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert (
        stabjax.runs.best(halved).positions
        == stabjax.runs.best(full.where(kept)).positions
    )


def test_each_rung_keeps_the_best_means(both):
    _, halved = both
    losses = halved.rung_loss.mean("seed", skipna=False).stack(point=("rate", "kind"))
    steps = halved.trained_steps.isel(seed=0).stack(point=("rate", "kind"))
    for rung in (4, 12):
        at = losses.sel(rung=rung)
        kept, dropped = at[steps > rung], at[steps == rung]
        assert kept.max() <= dropped.min()
        assert losses.sel(rung=36)[steps < 36].isnull().all()


def test_what_is_told_of_the_dropped(both):
    _, halved = both
    dropped = halved.trained_steps < 36
    diverged = halved.status == 1
    assert diverged.any()
    assert dropped.where(diverged, True).all()
    assert (halved.final_loss.where(diverged, np.inf) == np.inf).all()
    assert halved.final_loss.where(dropped & ~diverged).isnull().all()
    assert halved.final_loss.where(~dropped, 0).notnull().all()
    assert halved.best_loss.notnull().all()


def test_epochs_have_whole_epochs_as_rungs_and_accuracies_are_maximized():
    problem = stabjax.problems.Problem(
        PROBLEM.init,
        PROBLEM.loss,
        lambda w: {"accuracy": 1 / (1 + jnp.sum(jnp.abs(w)))},
        {"steps_per_epoch": 3},
    )
    space = stabjax.grid(rate=RATES, seed=range(2))
    given = {"rungs": 4, "variable": "accuracy"}
    runs = stabjax.successive_halving(
        problem, make_optimizer, space, epochs=10, **given
    )
    assert runs.rung.values.tolist() == [6, 9, 15, 30]
    assert runs.rung_loss.attrs["better"] == runs.accuracy.attrs["better"] == "higher"
    for rung in range(3):
        means = runs.rung_loss.isel(rung=rung).mean("seed").values
        went_on = runs.rung_loss.isel(rung=rung + 1, seed=0).notnull().values
        left = ~went_on & np.isfinite(means)
        assert went_on.any() and left.any()
        assert means[went_on].min() >= means[left].max()
    with pytest.raises(TypeError, match="steps or epochs must be given, and not both"):
        stabjax.successive_halving(problem, make_optimizer, space)


def test_all_may_diverge():
    space = stabjax.grid(rate=[30.0, 40.0, 50.0, 60.0])
    runs = stabjax.successive_halving(PROBLEM, make_optimizer, space, steps=40)
    assert (runs.status == 1).all()
    assert (runs.final_loss == np.inf).all()
    assert (runs.trained_steps == 5).all()  # nobody goes on


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rungs": 0}, ValueError, "rungs must be an integer >= 1, got 0"),
        ({"eta": 1}, ValueError, r"eta must be in \(1, inf\), got 1"),
        ({"steps": 0}, ValueError, "steps must be an integer >= 1"),
        ({"space": {"rate": [1]}}, TypeError, "space must be a Space"),
        ({"variable": "nope"}, ValueError, "one of final_loss, size, got 'nope'"),
        ({"space": stabjax.grid(r=[1])}, ValueError, "'rate' without a default"),
    ],
)
def test_bad_input(arguments, error, message):
    arguments = {"space": stabjax.grid(rate=[0.1]), "steps": 2, **arguments}
    with pytest.raises(error, match=message):
        stabjax.successive_halving(PROBLEM, make_optimizer, **arguments)


@pytest.mark.slow
def test_it_finds_as_good_a_digits_network_at_a_third_of_the_cost():
    def make(max_norm, peak_value):
        schedule = stabjax.warmup_cosine_decay_schedule(0.0, peak_value, 5, 200)
        clip = stabjax.clip_by_global_norm(max_norm)
        return optax.chain(clip, optax.sgd(schedule, momentum=0.9))

    space = stabjax.grid(
        max_norm=[0.3, 3.0], peak_value=np.logspace(-3, 1, 12), seed=range(4)
    )
    given = stabjax.problems.digits_mlp(), make, space
    full = stabjax.sweep(*given, steps=200)
    halved = stabjax.successive_halving(*given, steps=200, variable="test_loss")
    assert halved.attrs["share_of_steps"] <= 1 / 3
    chosen = full.test_loss.isel(stabjax.runs.best(halved, "test_loss").positions)
    best = full.test_loss.isel(stabjax.runs.best(full, "test_loss").positions)
    noise = (chosen - best).std("seed", ddof=1) / 2  # of a mean of four seeds
    assert (chosen - best).mean() <= 2 * noise


def noisy(rate):
    """An optimizer with a typed key and half precision in its state."""

    def init(params):
        return jax.random.key(7), params.astype(jnp.bfloat16)

    def update(updates, state, params=None):
        del params
        key, mean = state
        key, now = jax.random.split(key)
        mean = (mean.astype(jnp.float32) * 0.9 + updates).astype(jnp.bfloat16)
        noise = 0.01 * jax.random.normal(now, mean.shape)
        return -rate * (mean.astype(jnp.float32) + noise), (key, mean)

    return optax.GradientTransformation(init, update)


NOISY = stabjax.grid(rate=np.logspace(-3, 0, 12), seed=range(2))


def halve(**kwargs):
    arguments = {"steps": 16, "rungs": 3, "devices": jax.devices()[:1], **kwargs}
    if "executor" in arguments:
        del arguments["devices"]
    return stabjax.successive_halving(PROBLEM, noisy, NOISY, **arguments)


@pytest.fixture(scope="module")
def alone():
    with jax.numpy_dtype_promotion("strict"):
        return halve()


@pytest.mark.slow
def test_it_is_the_same_on_devices_and_workers(alone):
    assert_same_bits(halve(devices=jax.devices()[:3]), alone)
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        assert_same_bits(halve(executor=executor), alone)


@pytest.mark.slow
def test_a_store_resumes_it_wherever_it_stopped(alone, tmp_path):
    assert_same_bits(halve(store=tmp_path), alone)
    assert_same_bits(stabjax.runs.load(tmp_path), alone)
    assert stabjax.runs.load(tmp_path).share_of_steps == alone.share_of_steps
    files = sorted((tmp_path / "chunks").glob("*.npz"))
    assert len(files) == 7  # of six trials: four, two and one of them at the rungs
    for gone in (files[2:3], files[4:5], files[5:], files):
        before = chunk_files(tmp_path)
        for file in gone:
            file.unlink()
        kept = chunk_files(tmp_path)
        partly = stabjax.runs.load(tmp_path)
        assert (partly.final_loss.isnull() | (partly.status == 1)).any()
        assert partly.rung_loss.sel(rung=16).isnull().all()
        assert_same_bits(halve(store=tmp_path), alone)
        after = chunk_files(tmp_path)
        assert before.keys() == after.keys()
        assert {name: after[name] for name in kept} == kept


@pytest.mark.usefixtures("keyboard")
def test_ctrl_c_keeps_what_is_running(alone, tmp_path, monkeypatch):
    write, written = Store.write_chunk, []

    def interrupted(*args):
        write(*args)
        written.append(None)
        if len(written) == 5:  # the first of the second rung
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_chunk", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"of 42 trials .* Repeat the call"):
            halve(store=tmp_path)
    assert len(chunk_files(tmp_path)) == 6
    assert_same_bits(halve(store=tmp_path), alone)


def test_a_failing_chunk_ends_it_without_a_wrong_choice(alone, tmp_path, monkeypatch):
    train = executors.train_chunk

    def unreliable(recipe, shared, lanes, *more):
        if shared["first"] == 0 and lanes["rate"][0] == np.float32(
            NOISY.axes[0].values[6]
        ):
            raise MemoryError("no room")
        return train(recipe, shared, lanes, *more)

    monkeypatch.setattr(executors, "train_chunk", unreliable)
    with (
        concurrent.futures.ThreadPoolExecutor(2) as executor,
        pytest.warns(RuntimeWarning, match="of the chunks failed .* no room"),
    ):
        runs = halve(executor=executor, store=tmp_path)
    assert runs.final_loss.where(runs.status != 1).isnull().all()
    assert int((runs.status == -1).sum()) == 12  # a chunk of each seed
    monkeypatch.undo()
    assert_same_bits(halve(store=tmp_path), alone)


def test_a_store_of_another_halving_or_sweep_is_refused(tmp_path):
    halve(store=tmp_path)
    for change, message in (
        ({"rungs": 2}, r"rungs is \(4, 8, 16\) in the store and \(8, 16\) here"),
        ({"eta": 3.0}, "eta is 2.0 in the store and 3.0 here"),
        ({"steps": 17}, "steps is 16 in the store and 17 here"),
    ):
        with pytest.raises(ValueError, match=message):
            halve(store=tmp_path, **change)
    with pytest.raises(ValueError, match="rungs is .* in the store and .. here"):
        stabjax.sweep(PROBLEM, noisy, NOISY, steps=16, store=tmp_path)
    more = stabjax.grid(rate=np.logspace(-3, 0, 12), seed=range(3))
    with pytest.raises(ValueError, match="successive halving compares all points"):
        stabjax.successive_halving(
            PROBLEM, noisy, more, steps=16, rungs=3, store=tmp_path
        )


@pytest.mark.slow
def test_one_of_its_runs_again():
    runs = halve(steps=8, rungs=2)
    trial = runs.sel(seed=1).isel(rate=5)
    run = stabjax.runs.rerun(PROBLEM, noisy, trial)
    assert run.loss.shape == (8,)
    np.testing.assert_allclose(run.final_loss, trial.final_loss, rtol=1e-5)
