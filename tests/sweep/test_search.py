"""Optuna: studies of datasets, and sweeps whose trials a sampler chooses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import stabjax
from stabjax._sweep.store import Store

optuna = pytest.importorskip("optuna")

optuna.logging.set_verbosity(optuna.logging.ERROR)
Float = optuna.distributions.FloatDistribution
Integer = optuna.distributions.IntDistribution
Categorical = optuna.distributions.CategoricalDistribution

PROBLEM = stabjax.problems.Problem(
    lambda key: jnp.array([3.0, -4.0]) * jax.random.uniform(key, (2,), minval=0.5),
    lambda w, key: jnp.sum(w * w),
)


def make_optimizer(rate, max_norm, kind, warmup=0):
    factor = jnp.where(jnp.asarray(warmup) > 2, 0.5, 1.0)
    inner = optax.identity() if kind is None else stabjax.clip_by_global_norm(max_norm)
    return optax.chain(inner, optax.sgd(rate * factor))


SPACE = stabjax.grid(
    rate=np.logspace(-3, 0.5, 8),
    max_norm=[0.1, 1.0, np.inf],
    kind=[None, "clip"],
    seed=range(2),
)


@pytest.fixture(scope="module")
def runs():
    with jax.numpy_dtype_promotion("strict"):
        return stabjax.sweep(PROBLEM, make_optimizer, SPACE, steps=20, record_every=10)


def test_a_dataset_is_a_study(runs):
    study = stabjax.search.to_study(runs)
    assert len(study.trials) == 48
    trial = study.trials[-1]
    assert trial.params == {"rate": 10**0.5, "max_norm": np.inf, "kind": "clip"}
    assert trial.distributions == {
        "rate": Float(1e-3, 10**0.5, log=True),
        "max_norm": Categorical([0.1, 1.0, np.inf]),
        "kind": Categorical([None, "clip"]),
    }
    assert trial.value == np.inf  # it diverged, and is complete all the same
    assert trial.user_attrs == {"stable_fraction": 0.0}
    best = stabjax.runs.best(runs)
    np.testing.assert_allclose(study.best_value, best.value.value, rtol=1e-6)
    # Without a clip all thresholds are equal: `best` takes the middle one.
    assert {**study.best_params, "max_norm": 1.0} == best.point
    first = study.trials[0]
    np.testing.assert_allclose(first.value, runs.final_loss[0, 0, 0].mean())
    curve = runs.loss[0, 0, 0].mean("seed").values.tolist()
    assert first.intermediate_values == {0: curve[0], 10: curve[1]}


def test_importances_run_on_it(runs):
    # Without a clip the threshold is nothing.
    study = stabjax.search.to_study(runs.sel(rate=slice(None, 0.9), kind="None"))
    for evaluator in (
        optuna.importance.FanovaImportanceEvaluator(n_trees=8, seed=0),
        optuna.importance.PedAnovaImportanceEvaluator(),
    ):
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        assert {"rate", "max_norm"} <= found.keys()
        assert max(found, key=found.get) == "rate"


def test_a_study_takes_what_was_run_and_may_maximize(runs):
    holes = runs.copy(deep=True)
    holes["final_loss"][0] = np.nan
    study = optuna.create_study(direction="maximize")
    found = stabjax.search.to_study(holes, maximize=True, study=study)
    assert found is study
    assert len(study.trials) == 42
    assert min(t.value for t in study.trials) == -np.inf  # the diverged ones
    best = stabjax.runs.best(holes, maximize=True)
    np.testing.assert_allclose(study.best_value, best.value.value, rtol=1e-6)
    assert {**study.best_params, "max_norm": 1.0} == best.point
    with pytest.raises(ValueError, match="study must minimize because maximize=False"):
        stabjax.search.to_study(runs, study=study)


def test_sampled_axes_are_numbers():
    space = stabjax.sample(16, 0, rate=[0.1, 0.3], warmup=[1, 2, 3, 300])
    runs = stabjax.sweep(
        PROBLEM, lambda rate, warmup=0: optax.sgd(rate), space, steps=2
    )
    found = stabjax.search.to_study(runs, over=()).trials[0].distributions
    assert found == {"rate": Float(0.1, 0.3), "warmup": Integer(1, 300, log=True)}


AXES = {
    "rate": Float(1e-3, 3.0, log=True),
    "max_norm": Float(0.1, 10.0),
    "kind": Categorical([None, "clip"]),
    "warmup": Integer(0, 5),
}


@pytest.mark.slow
def test_a_sampler_drives_sweeps_in_batches():
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1))
    for _ in range(3):
        space = stabjax.search.ask(study, 12, **AXES) * stabjax.grid(seed=range(2))
        runs = stabjax.sweep(PROBLEM, make_optimizer, space, steps=20, chunk_size=24)
        stabjax.search.tell(study, runs)
    states = {trial.state for trial in study.trials}
    assert states == {optuna.trial.TrialState.COMPLETE}
    told = [trial.value for trial in study.trials[-12:]]
    np.testing.assert_allclose(told, runs.final_loss.mean("seed"), rtol=1e-6)
    assert {type(t.params["kind"]) for t in study.trials} == {type(None), str}
    firsts = [t.value for t in study.trials[:12]]
    assert study.best_value < min(firsts)


def test_what_was_not_run_is_told_as_failed_and_others_are_refused():
    study = optuna.create_study()
    axes = {"rate": AXES["rate"]}
    space = stabjax.search.ask(study, 3, **axes)
    runs = stabjax.sweep(PROBLEM, lambda rate: optax.sgd(rate), space, steps=2)
    runs["final_loss"][1] = np.nan
    other = runs.assign_coords(rate=("trial", [0.5, 0.5, 0.5]))
    unknown = runs.assign_coords(trial=[0, 1, 7])
    for wrong in (other, unknown, runs.isel(trial=[0, 1, 2, 2])):
        with pytest.raises(ValueError, match="open trials that were returned by ask"):
            stabjax.search.tell(study, wrong)
    assert {t.state.name for t in study.trials} == {"RUNNING"}
    stabjax.search.tell(study, runs)
    with pytest.raises(ValueError, match="runs must contain open trials"):
        stabjax.search.tell(study, runs)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]


def test_an_axis_must_be_a_distribution_of_optuna():
    study = optuna.create_study()
    for wrong in ([0.1, 1.0], scipy.stats.loguniform(1e-3, 1.0), 0.1):
        with pytest.raises(TypeError, match="rate must be a distribution of Optuna"):
            stabjax.search.ask(study, 3, **(AXES | {"rate": wrong}))
    assert not study.trials


@pytest.mark.parametrize(
    ("n", "axes", "message"),
    [(0, AXES, "n must be an integer >= 1, got 0"), (3, {}, "at least one axis")],
)
def test_bad_questions(n, axes, message):
    with pytest.raises(ValueError, match=message):
        stabjax.search.ask(optuna.create_study(), n, **axes)


def trained(space, **kwargs):
    return stabjax.sweep(
        PROBLEM, lambda rate: optax.sgd(rate), space, steps=20, **kwargs
    )


def values_of(study):
    return {t.number: (t.params["rate"], t.value) for t in study.trials}


@pytest.mark.parametrize("storage", ["memory", "file"])
@pytest.mark.slow
def test_two_workers_share_a_study(storage, tmp_path):
    rate = {"rate": AXES["rate"]}
    if storage == "memory":
        one = two = optuna.create_study()
    else:
        name, url = "s", f"sqlite:///{tmp_path}/s.db"
        one = optuna.create_study(study_name=name, storage=url)
        two = optuna.load_study(study_name=name, storage=url)
    mine, theirs = (
        stabjax.search.ask(one, 4, **rate),
        stabjax.search.ask(two, 4, **rate),
    )
    again = stabjax.search.ask(one, 3, **rate) * stabjax.grid(seed=range(2))
    runs = trained(again)
    assert runs.trial.values.tolist() == [8, 9, 10]
    assert stabjax.search.tell(one, runs)
    stabjax.search.tell(two, trained(theirs, store=tmp_path / "theirs"))
    assert {t.state.name for t in one.trials[:4]} == {"RUNNING"}
    loaded = stabjax.runs.load(tmp_path / "theirs")
    assert loaded.trial.values.tolist() == [4, 5, 6, 7]
    stabjax.search.tell(one, trained(mine).isel(trial=[3, 1]))
    stabjax.search.tell(one, trained(mine).isel(trial=[0, 2]))
    assert {t.state.name for t in two.trials} == {"COMPLETE"}
    losses = {}
    for runs in (trained(mine), loaded, trained(again).mean("seed")):
        losses |= dict(zip(runs.trial.values, runs.final_loss.values, strict=True))
    found = {number: value for number, (_, value) in values_of(one).items()}
    assert found == pytest.approx(losses, rel=1e-5)


SAMPLERS = {
    "grid": lambda: optuna.samplers.GridSampler({"rate": [0.1, 0.2, 0.3, 0.4]}),
    "brute force": lambda: optuna.samplers.BruteForceSampler(seed=0),
    "random": lambda: optuna.samplers.RandomSampler(seed=0),
    "sobol": lambda: optuna.samplers.QMCSampler(seed=0),
    "evolution": lambda: optuna.samplers.NSGAIISampler(seed=0, population_size=2),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Optuna's, of samplers that are experimental
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_told_everything(name):
    study = optuna.create_study(sampler=SAMPLERS[name]())
    rate = Float(0.1, 0.4, step=0.1)
    more = []
    for _ in range(2):
        space = stabjax.search.ask(study, 2, rate=rate)
        more.append(stabjax.search.tell(study, trained(space)))
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 4
    assert more == [True, name not in ("grid", "brute force")]
    if name in ("grid", "brute force"):
        rates = sorted(rate for rate, _ in values_of(study).values())
        np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4])
        assert study.best_params["rate"] == pytest.approx(0.4)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("storage", ["memory", "file"])
@pytest.mark.parametrize("moment", ["asking", "training", "telling"])
@pytest.mark.slow
def test_a_search_resumes_from_its_stores(tmp_path, monkeypatch, storage, moment):
    """Killed at any moment, the same script goes on: nothing is asked or run twice."""
    rate = {"rate": AXES["rate"]}
    url = f"sqlite:///{tmp_path}/s.db" if storage == "file" else None
    trained_now, calls = [], []

    def study_of(url):
        return optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=3, n_startup_trials=4),
            storage=url,
            study_name="s",
            load_if_exists=True,
        )

    def search(folder, url):
        study = study_of(url)
        for number in range(3):
            store = folder / str(number)
            space = stabjax.search.ask(study, 4, store, **rate)
            runs = trained(space, store=store, chunk_size=1, devices=jax.devices()[:1])
            trained_now.append(runs.attrs["runs_per_second"] > 0)
            stabjax.search.tell(study, runs)
        return study

    def killing(function, after):
        def call(*args, **kwargs):
            calls.append(None)
            if len(calls) == after:
                raise Killed
            return function(*args, **kwargs)

        return call

    target, name = {
        "asking": (optuna.Study, "ask"),
        "training": (Store, "write_chunk"),
        "telling": (optuna.Study, "tell"),
    }[moment]
    with monkeypatch.context() as patch:
        patch.setattr(target, name, killing(getattr(target, name), 7))
        with pytest.raises(Killed):
            search(tmp_path, url)
    trained_now.clear()
    study = search(tmp_path, url)
    states = [t.state.name for t in study.trials]
    assert states == ["COMPLETE"] * 12
    assert trained_now[0] is False  # read from its store
    kept = [
        stabjax.runs.load(tmp_path / str(number)).final_loss.values
        for number in range(3)
    ]
    told = [t.value for t in study.trials]
    np.testing.assert_allclose(told, np.concatenate(kept), rtol=1e-6)
    if storage == "memory":  # the seed makes it one search
        again = search(tmp_path / "quiet", None)
        assert values_of(study) == values_of(again)


def test_a_store_belongs_to_one_batch():
    study = optuna.create_study()
    stabjax.search.ask(study, 3, "a", rate=AXES["rate"])
    with pytest.raises(ValueError, match="has 3 trials for the store 'a', with other"):
        stabjax.search.ask(study, 2, "a", rate=AXES["rate"])
    with pytest.raises(ValueError, match="Use another store, or call ask with"):
        stabjax.search.ask(study, 3, "a", rate=AXES["max_norm"])
    assert len(stabjax.search.ask(study, 5, "a", rate=AXES["rate"])) == 5
    assert len(study.trials) == 5
