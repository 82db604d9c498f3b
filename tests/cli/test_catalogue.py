"""One catalogue: what the study knows, the other commands know, with all arguments."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

import stabjax
from stabjax import _catalogue
from stabjax.cli import environment, main
from stabjax.cli.methods import ROLES, make_optimizer_from, parts_of

PARAMS = {"w": jnp.array([1.0, -2.0])}
GRADS = {"w": jnp.array([30.0, 40.0])}


@pytest.fixture(autouse=True)
def own_jax(monkeypatch):
    monkeypatch.setattr(environment, "prepare_jax", lambda devices=None: None)


def made(steps=20, record=False, **options):
    given = {role: options.pop(role) for role in ROLES if role in options}
    make = make_optimizer_from(parts_of(given, {}), steps, record=record)
    return make(**{"peak_value": 0.5, **options})


def first_update(optimizer):
    updates, _ = optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS, value=1.0)
    return updates["w"]


def test_what_the_study_knows_the_sweep_knows():
    for role, names in {
        "clip": stabjax.study.CLIPPINGS,
        "schedule": stabjax.study.SCHEDULES,
        "optimizer": _catalogue.optimizers(),
        "guard": _catalogue.GUARDS,
    }.items():
        for name in names:
            parts = parts_of({role: name}, {})
            make = make_optimizer_from(parts, 10, record=False)
            parameters = inspect.signature(make).parameters
            assert set(parts[role][name].parameters) <= set(parameters), name
    assert set(stabjax.study.PROBLEMS) == set(_catalogue.PROBLEMS)
    assert "noisy_quadratic" in _catalogue.PROBLEMS


@pytest.mark.slow
@pytest.mark.parametrize("name", _catalogue.SCHEDULES)
def test_a_schedule_is_the_one_of_the_study(name):
    optimizer = made(schedule=name)
    schedule = stabjax.study.SCHEDULES[name](0.5, 20)
    expected = -float(schedule(0)) * GRADS["w"]
    np.testing.assert_allclose(first_update(optimizer), expected, rtol=1e-6)


def test_arguments_of_a_schedule_change_the_others():
    """A longer warm-up shortens the stable part, not the run."""
    wsd = _catalogue.SCHEDULES["wsd_schedule"]
    assert wsd.arguments(100, {"peak_value": 1.0}) == {
        "peak_value": 1.0,
        "warmup_steps": 10,
        "decay_steps": 20,
        "stable_steps": 70,
    }
    given = {"peak_value": 1.0, "warmup_steps": 40, "decay_steps": 30}
    assert wsd.arguments(100, given)["stable_steps"] == 30


def test_arguments_go_to_every_part_that_has_them():
    optimizer = made(
        record=True,
        clip="adaptive_grad_clip",
        clipping=0.1,
        optimizer="rmsprop",
        schedule="cosine",
        warmup_steps=5,
        eps=0.5,
        decay=0.0,
    )
    clip = stabjax.adaptive_grad_clip(0.1, eps=0.5)
    inner = optax.rmsprop(
        lambda count: stabjax.warmup_cosine_decay_schedule(0.0, 0.5, 5, 20)(count),
        eps=0.5,
        decay=0.0,
    )
    expected = optax.chain(clip, inner)
    mine, theirs = optimizer.init(PARAMS), expected.init(PARAMS)
    for _ in range(3):
        found, mine = optimizer.update(GRADS, mine, PARAMS)
        right, theirs = expected.update(GRADS, theirs, PARAMS)
    np.testing.assert_allclose(found["w"], right["w"], rtol=1e-5)
    assert "clip/grad_norm" in stabjax.metrics(mine)


@pytest.mark.parametrize(
    ("name", "number"), [("zclip", "z_threshold"), ("clip_update_norm", "z_threshold")]
)
def test_an_infinite_threshold_switches_any_clip_off(name, number):
    plain = first_update(made(clip="none"))
    np.testing.assert_array_equal(plain, first_update(made()))
    off = first_update(made(clip=name, **{number: jnp.inf}))
    np.testing.assert_array_equal(plain, off)


def test_a_clip_of_updates_comes_after_the_optimizer():
    number = {"relative": 1e-3, "absolute": 0.0}
    found = first_update(made(clip="clip_by_relative_update", **number))
    assert np.all(np.abs(found) <= 1.001e-3 * np.abs(PARAMS["w"]))


def test_a_guard_wraps_all():
    optimizer = made(guard="skip_above_norm", drop_norm=1.0)
    assert first_update(optimizer).tolist() == [0.0, 0.0]


@pytest.mark.slow
def test_names_are_an_axis(tmp_path, capsys, standard_promotion):
    """Problem, clip and schedule of the catalogue, shapes, fresh seeds: one sweep."""
    out = tmp_path / "runs.nc"
    axes = ["peak_value=0.05,0.1", "clip=none,zclip", "dim=3", "seed=0:3"]
    given = ["sweep", "noisy_quadratic", *axes, "--steps", "9", "--fresh-seeds", "4"]
    assert main([*given, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "12 trials, 2 programs" in printed.err
    assert "  dim = " in printed.out
    assert "with fresh seeds: mean final_loss: " in printed.out
    assert "(95% interval, 4 seeds)" in printed.out
    runs = xr.load_dataset(out, engine="scipy")
    assert runs["clip"].values.tolist() == ["None", "zclip"]
    problem = stabjax.problems.quadratic(noise=1.0, dim=3)
    key = jax.random.key(2)
    alone = stabjax.train(problem, optax.sgd(0.1), key, steps=9)
    found = runs.final_loss.sel(peak_value=0.1, clip="None", dim=3, seed=2)
    assert float(found) == pytest.approx(float(alone.final_loss), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("problems", _catalogue.PROBLEMS),
        ("clips", _catalogue.CLIPS),
        ("schedules", _catalogue.ALL_SCHEDULES),
        ("optimizers", _catalogue.optimizers()),
        ("guards", _catalogue.GUARDS),
    ],
)
def test_list_has_every_name_with_arguments_and_a_sentence(kind, names, capsys):
    assert main(["list", kind]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.startswith(f"{kind}: ")
    entries = dict(zip(lines[::2], lines[1::2], strict=True))
    assert [entry.split()[0] for entry in entries] == [*names]
    assert all(len(sentence) > 20 for sentence in entries.values())
    arguments = {entry.split()[0]: entry.split()[1:] for entry in entries}
    expected = {
        "problems": ("noisy_quadratic", "noise=1"),
        "clips": ("zclip", "z_threshold=2.5"),
        "schedules": ("wsd_schedule", "stable_steps=70"),
        "optimizers": ("adamw", "b2=0.999"),
        "guards": ("skip_above_norm", "drop_norm"),
    }
    name, argument = expected[kind]
    assert argument in arguments[name]


def test_list_has_everything(capsys):
    assert main(["list"]) == 0
    assert capsys.readouterr().out.count("\n") > 150


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cosine", "wsd_schedule", "exponential_decay"])
def test_a_schedule_of_the_catalogue_needs_no_arguments(name, tmp_path, capsys):
    out = tmp_path / "schedule.svg"
    assert main(["schedule", name, "peak_value=2", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    schedule = stabjax.study.SCHEDULES[name](2.0, 100)
    assert stabjax.plot.schedule_text(schedule, 100) in printed
    assert "=2" in printed.splitlines()[0]
    assert b"<svg" in out.read_bytes()


def test_a_schedule_of_a_billion_steps_is_drawn(tmp_path, capsys):
    out = str(tmp_path / "schedule.pdf")
    assert main(["schedule", "cosine", "--steps", "1000000000", "--out", out]) == 0
    printed = capsys.readouterr().out
    assert "1000000000" in printed
    assert "bound" not in printed
