"""The command line: what it prints, and how it refuses."""

import os
import subprocess
import sys

import numpy as np
import optax
import pytest
import xarray as xr

import stabjax
from stabjax import _recipes, cli
from stabjax.cli import main


def refused(arguments, capsys):
    """What is printed on standard error when arguments are refused."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()[-1]


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"stabjax {stabjax.__version__}\n"


def test_without_a_command_it_helps(capsys):
    assert main([]) == 0
    assert "study" in capsys.readouterr().out


def test_unknown_problem_is_answered_with_the_known_ones(capsys):
    message = refused(["study", "--problems", "quadratic,nope"], capsys)
    assert message.startswith("stabjax: error: unknown problem 'nope'; known are ")
    assert all(name in message for name in stabjax.study.PROBLEMS)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--seeds", "0"], "seeds must be at least 1, got 0"),
        (["--rates", "-3"], "rates must be at least 1, got -3"),
        (["--steps", "5"], "steps must be at least 10, got 5"),
        (["--thresholds", "few"], "argument --thresholds: invalid int value: 'few'"),
    ],
)
def test_sizes_are_checked_before_anything_runs(arguments, message, capsys):
    assert refused(["study", *arguments], capsys).endswith(message)


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").touch()
    message = refused(["study", "--out", str(tmp_path / "file" / "study")], capsys)
    assert "Not a directory" in message


def test_study(tmp_path, capsys):
    sizes = ["--rates", "3", "--thresholds", "1", "--seeds", "2", "--steps", "20"]
    arguments = ["study", "--problems", "quadratic", *sizes, "--out", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "24 trainings, about" in printed.err  # 3 rates, 1 threshold and none, ...
    assert "[1/1] quadratic: 24 trainings of 20 steps" in printed.err
    assert "## The answer" in printed.out
    assert f"More, with pictures: {tmp_path / 'report.html'}" in printed.out
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"stabjax {' '.join(arguments)}\n" in report


def test_schedule_is_drawn_and_written(tmp_path, capsys):
    out = tmp_path / "wsd.png"
    numbers = ["peak_value=0.5", "warmup_steps=4", "stable_steps=8", "decay_steps=8"]
    arguments = ["schedule", "wsd_schedule", *numbers, "shape=1-sqrt"]
    assert main([*arguments, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "0.5 |" in printed and "20\n" in printed
    schedule = stabjax.wsd_schedule(0.5, 4, 8, 8, shape="1-sqrt")
    bound = stabjax.schedule_bound(schedule, 20).best_value * 20**0.5
    assert f"by DG / sqrt(T): {bound:.3g}" in printed
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nope"], "unknown schedule 'nope'; known are chebyshev_schedule, "),
        (["with_bounds"], "unknown schedule 'with_bounds'"),
        (["wsd_schedule", "1"], "an argument must be NAME=VALUE, got '1'"),
        (["cosine_decay_schedule"], "missing 2 required positional arguments"),
        (
            ["cosine_decay_schedule", "init_value=1", "decay_steps=-5"],
            "decay_steps must be positive, got -5",
        ),
        (["linear_schedule", "init_value=x"], "init_value must be a number, got 'x'"),
        (
            ["constant_schedule", "value=1", "--steps", "-3"],
            "steps must be positive, got -3",
        ),
    ],
)
def test_a_schedule_that_is_none(arguments, message, capsys):
    assert message in refused(["schedule", *arguments], capsys)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=log:1e-2:1e2:5", [0.01, 0.1, 1, 10, 100]),
        ("a=lin:-1:1:3", [-1.0, 0, 1]),
        ("a=2:5", [2, 3, 4]),
        ("a=0.5,inf", [0.5, np.inf]),
        ("a=1,2", [1, 2]),
        ("a=cosine,none,true", ("cosine", None, True)),
        ("a=static:8,16", (8, 16)),
    ],
)
def test_words_of_axes(text, expected):
    (axis,) = _recipes.space_of([text]).axes
    assert axis.is_static == isinstance(expected, tuple)
    if axis.is_static:
        assert axis.values == expected
    else:
        np.testing.assert_allclose(axis.values, expected)
        assert axis.values.dtype.kind == np.asarray(expected).dtype.kind


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_optimizers_by_name_are_those_of_optax(name, standard_promotion):
    make = _recipes.optimizer_named("adamw", 10, watched=True)
    tx = make(0.5, max_norm=0.1, schedule=name, warmup_steps=4, weight_decay=0.0)
    schedule = {
        "constant": stabjax.warmup_constant_schedule(0.0, 0.5, 4),
        "cosine": optax.warmup_cosine_decay_schedule(0.0, 0.5, 4, 10),
        "linear": lambda t: np.interp(t, [0, 4, 10], [0.0, 0.5, 0.0]),
    }[name]
    params, grads = np.float32([1.0, 2.0]), np.float32([3.0, -4.0])
    state = tx.init(params)
    for step in range(10):
        updates, state = tx.update(grads, state, params)
        expected = -schedule(step) * np.sign(grads)  # of Adam, for a constant gradient
        np.testing.assert_allclose(updates, expected, rtol=1e-3, atol=1e-6)
    assert stabjax.metrics(state)["clip/grad_norm"] == 5


def test_without_a_warm_up_the_peak_comes_first():
    tx = _recipes.optimizer_named("sgd", 10, watched=False)(0.5)
    updates, _ = tx.update(np.float32(2.0), tx.init(np.float32(1.0)))
    assert updates == -1.0


@pytest.fixture
def own_jax(monkeypatch):
    """JAX is set up by the tests, and compiles into no cache of the user."""
    monkeypatch.setattr(cli, "_prepare_jax", lambda devices: None)


def test_sweep_and_plot(own_jax, tmp_path, capsys, standard_promotion):
    store, out = tmp_path / "store", tmp_path / "runs.nc"
    axes = ["peak_value=0.1,0.5,9", "max_norm=1,inf", "schedule=cosine", "seed=0:2"]
    given = ["sweep", "quadratic", *axes, "--steps", "20", "--target-loss", "0.1"]
    arguments = [*given, "--store", str(store), "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "12 trainings of 20 steps in " in printed.out
    assert "diverged: 16.7%" in printed.out
    assert "best final loss, on average over seeds: peak_value=0.5" in printed.out
    assert "Space(peak_value: 3, max_norm: 2, schedule: 1, seed: 2" in printed.err
    runs = xr.load_dataset(out, engine="scipy")
    assert runs.sizes == {"peak_value": 3, "max_norm": 2, "schedule": 1, "seed": 2}
    assert stabjax.best(runs)["peak_value"] == 0.5
    xr.testing.assert_equal(stabjax.load(store), runs)
    for where, more in ((store, []), (out, ["--variable", "status"])):
        picture = tmp_path / "picture.png"
        assert main(["plot", str(where), *more, "--out", str(picture)]) == 0
        assert f"picture: {picture}" in capsys.readouterr().out
        assert picture.stat().st_size > 1000
        picture.unlink()


def test_a_dry_run_and_a_recorded_sweep(own_jax, tmp_path, capsys, standard_promotion):
    given = ["sweep", "quadratic", "peak_value=9", "seed=0:2", "--steps", "20"]
    assert main([*given, "--dry-run"]) == 0
    assert "2 trainings of 20 steps, 1 programs" in capsys.readouterr().out
    out, picture = tmp_path / "runs.nc", tmp_path / "picture.png"
    assert main([*given, "--record-every", "5", "--out", str(out)]) == 0
    assert "no point is the best" in capsys.readouterr().out
    assert "clip_grad_norm" in xr.load_dataset(out, engine="scipy")
    assert main(["plot", str(out), "--variable", "loss", "--out", str(picture)]) == 0
    assert picture.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["quadratics", "a=1"],
            "unknown problem 'quadratics'; known are adding, ",
        ),
        (["rosenbrok", "a=1"], "; did you mean rosenbrock?"),
        (["quadratic", "a"], "an axis must be NAME=VALUES, got 'a'"),
        (["quadratic", "a=1", "a=2"], "axis 'a' is given twice"),
        (["quadratic", "a=log:0:1:3"], "axis 'a' must be log:LOW:HIGH:N"),
        (["quadratic", "a=log:1:3"], "axis 'a' must be log:LOW:HIGH:N"),
        (["quadratic", "a=1,,2"], "axis 'a' must be log:LOW:HIGH:N"),
        (["quadratic", "a=1"], "'peak_value' without a default"),
        (["quadratic", "a=1", "peak_value=1"], "axis 'a' goes nowhere"),
        (["quadratic", "peak_value=nan"], "axis 'peak_value' holds NaN"),
        (["quadratic", "peak_value=1", "schedule=sine"], "must be one of constant"),
        (["quadratic", "a=1", "--optimizer", "clip"], "unknown optimizer 'clip'"),
        (["quadratic", "peak_value=1", "--steps", "0"], "steps must be a positive"),
    ],
)
def test_sweeps_are_refused_in_one_sentence(own_jax, arguments, message, capsys):
    assert message in refused(["sweep", *arguments], capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.nc"], "nowhere.nc"),
        (["{}", "--variable", "nope"], "there is no 'nope', only final_loss"),
        (["{}"], "there is no axis to draw over"),
    ],
)
def test_plots_are_refused_in_one_sentence(arguments, message, tmp_path, capsys):
    losses = xr.Dataset({"final_loss": ("seed", [1.0, 2.0])})
    file = tmp_path / "runs.nc"
    losses.to_netcdf(file, engine="scipy")
    arguments = [argument.format(file) for argument in arguments]
    assert message in refused(["plot", *arguments], capsys)


@pytest.mark.slow
def test_a_second_process_finds_what_the_first_one_compiled(tmp_path):
    command = [sys.executable, "-c", "from stabjax.cli import main; main()"]
    command += ["sweep", "digits_mlp", "peak_value=0.1,0.2", "--steps", "5"]
    seconds = []
    for _ in range(2):
        done = subprocess.run(
            [*command, "--devices", "1"],
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        seconds.append(float(done.stdout.split(" s to compile")[0].split()[-1]))
    assert list(tmp_path.rglob("*-cache"))
    assert seconds[1] < seconds[0]
