"""The command line: what it prints, and how it refuses."""

import inspect
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import jax
import numpy as np
import optax
import pytest
import xarray as xr

import stabjax
from stabjax.cli import environment, main
from stabjax.cli.methods import make_optimizer_from, parts_of
from stabjax.cli.sweep import _summary
from stabjax.cli.values import parse_axes, space_of


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


@pytest.mark.parametrize(
    ("missing", "arguments", "needed"),
    [
        ("jinja2", ["study", "--quick"], "stabjax[study]"),
        ("plotly", ["study", "--quick"], "stabjax[study]"),
        ("xarray", ["sweep", "quadratic", "peak_value=1"], "'xarray'"),
    ],
)
@pytest.mark.slow
def test_a_missing_package_is_named(missing, arguments, needed):
    """The other commands work without the packages of one."""
    code = f"import sys; sys.modules[{missing!r}] = None; from stabjax.cli import main;"
    command = [sys.executable, "-c", f"{code} sys.exit(main())"]
    version = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert version.returncode == 0
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert needed in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_only_the_study_needs_the_packages_of_its_report():
    project = pathlib.Path(__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    names = {
        extra: {re.split(r"[^\w-]", package)[0] for package in packages}
        for extra, packages in extras.items()
    }
    report = {"jinja2", "markdown", "plotly"}
    assert report <= names["study"]
    assert not report & (names["sweep"] | names["optuna"])
    assert "stabjax[sweep]" in extras["study"]
    assert "stabjax[optuna,study]" in extras["dev"]


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").touch()
    message = refused(["study", "--out", str(tmp_path / "file" / "study")], capsys)
    assert "Not a directory" in message


def test_study(tmp_path, capsys):
    sizes = ["--rates", "3", "--thresholds", "1", "--seeds", "2", "--steps", "20"]
    arguments = ["study", "--problems", "quadratic", *sizes, "--out", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "24 runs; results in" in printed.err  # 3 rates, 1 threshold and none, ...
    assert "[1/1] quadratic: 24 runs of 20 steps" in printed.err
    assert "## Main result" in printed.out
    assert f"Full report with plots: {tmp_path / 'report.html'}" in printed.out
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
    assert f"(D G / sqrt(T)): {bound:.3g}" in printed
    assert out.read_bytes().startswith(b"\x89PNG")


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
        ("a=none,0.9", (None, 0.9)),
        ("a=true,1,x", (True, 1, "x")),
        ("max_norm=0.1,none", [0.1, np.inf]),
    ],
)
def test_words_of_axes(text, expected):
    axes = parse_axes([text])
    (name,) = axes
    known = {name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)}
    (axis,) = space_of(axes, known, ["max_norm"]).axes
    assert axis.is_static == isinstance(expected, tuple)
    if axis.is_static:
        assert axis.values == expected
    else:
        np.testing.assert_allclose(axis.values, expected)
        assert axis.values.dtype.kind == np.asarray(expected).dtype.kind


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_optimizers_by_name_are_those_of_optax(name, standard_promotion):
    parts = parts_of({"optimizer": "adamw", "schedule": name}, {})
    make = make_optimizer_from(parts, 10, record=True)
    tx = make(peak_value=0.5, max_norm=0.1, warmup_steps=4, weight_decay=0.0)
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
    tx = make_optimizer_from(parts_of({}, {}), 10, record=False)(peak_value=0.5)
    updates, _ = tx.update(np.float32(2.0), tx.init(np.float32(1.0)))
    assert updates == -1.0


@pytest.fixture
def own_jax(monkeypatch):
    """JAX is set up by the tests, and compiles into no cache of the user."""
    monkeypatch.setattr(environment, "prepare_jax", lambda devices=None: None)


def test_sweep_and_plot(own_jax, tmp_path, capsys, standard_promotion):
    store, out = tmp_path / "store", tmp_path / "runs.nc"
    axes = ["peak_value=0.1,0.5,9", "max_norm=1,inf", "schedule=cosine", "seed=0:2"]
    given = ["sweep", "quadratic", *axes, "--steps", "20", "--target-loss", "0.1"]
    arguments = [*given, "--store", str(store), "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "12 runs of 20 steps in " in printed.out
    assert "diverged: 16.7%" in printed.out
    best = "best mean final_loss: 0 [0, 0] (95% interval, 2 seeds, best of 6 points)"
    assert best in printed.out
    assert "  peak_value = 0.5" in printed.out
    assert "Space(peak_value: 3, max_norm: 2, schedule: 1, seed: 2" in printed.err
    runs = xr.load_dataset(out, engine="scipy")
    assert runs.sizes == {"peak_value": 3, "max_norm": 2, "schedule": 1, "seed": 2}
    assert stabjax.runs.best(runs).point["peak_value"] == 0.5
    xr.testing.assert_equal(stabjax.runs.load(store), runs)
    for where, more in ((store, []), (out, ["--variable", "status"])):
        picture = tmp_path / "picture.png"
        assert main(["plot", str(where), *more, "--out", str(picture)]) == 0
        assert f"picture: {picture}" in capsys.readouterr().out
        assert picture.stat().st_size > 1000
        picture.unlink()


def test_a_dry_run_and_a_recorded_sweep(own_jax, tmp_path, capsys, standard_promotion):
    given = ["sweep", "quadratic", "peak_value=9", "seed=0:2", "--steps", "20"]
    assert main([*given, "--dry-run"]) == 0
    assert "2 runs of 20 steps, 1 programs" in capsys.readouterr().out
    out, picture = tmp_path / "runs.nc", tmp_path / "picture.png"
    assert main([*given, "--record-every", "5", "--out", str(out)]) == 0
    assert "there is no best point" in capsys.readouterr().out
    assert "clip_grad_norm" in xr.load_dataset(out, engine="scipy")
    assert main(["plot", str(out), "--variable", "loss", "--out", str(picture)]) == 0
    assert picture.exists()


def test_none_stands_beside_numbers(own_jax, tmp_path, capsys, standard_promotion):
    """A word in a list leaves the numbers numbers, and the dataset can be saved."""
    out = tmp_path / "runs.nc"
    axes = ["momentum=none,0.9", "max_norm=0.1,none"]
    arguments = ["sweep", "quadratic", "peak_value=0.1", *axes, "--steps", "5"]
    assert main([*arguments, "--out", str(out)]) == 0
    assert "4 runs of 5 steps" in capsys.readouterr().out
    runs = xr.load_dataset(out, engine="scipy")
    assert runs.momentum.values.tolist() == ["None", "0.9"]
    assert runs.max_norm.values.tolist() == pytest.approx([0.1, np.inf])
    for momentum in (None, 0.9):
        optimizer = optax.chain(
            stabjax.clip_by_global_norm(0.1), optax.sgd(0.1, momentum=momentum)
        )
        key = jax.random.key(0)
        alone = stabjax.train(stabjax.problems.quadratic(), optimizer, key, steps=5)
        found = runs.final_loss.sel(momentum=str(momentum)).isel(max_norm=0)
        assert float(found.squeeze()) == pytest.approx(float(alone.final_loss))


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep", "quadratic", "peak_value=0.1", "--steps", "5"],
        ["plot", "{runs}"],
        ["schedule", "constant_schedule", "value=1"],
    ],
)
@pytest.mark.parametrize("out", ["missing/folder/x.nc", "."])
def test_outputs_are_checked_before_any_work(
    arguments, out, own_jax, tmp_path, capsys, monkeypatch
):
    def work(*args, **kwargs):
        raise AssertionError("too late")

    monkeypatch.setattr(stabjax, "sweep", work, raising=False)
    monkeypatch.setattr("stabjax.cli.plot._draw", work)
    monkeypatch.setattr("stabjax.plot.schedules", work)
    runs = tmp_path / "runs.nc"
    xr.Dataset({"final_loss": ("peak_value", [1.0])}).to_netcdf(runs, engine="scipy")
    arguments = [argument.format(runs=runs) for argument in arguments]
    message = refused([*arguments, "--out", str(tmp_path / out)], capsys)
    assert "--out must be a file in an existing folder, got" in message
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("place", range(1, 5))
@pytest.mark.parametrize("command", ["sweep", "schedule"])
def test_values_stand_anywhere(command, place, own_jax, tmp_path, capsys):
    """In front of options, behind them, and between them."""
    if command == "sweep":
        first, pairs = "quadratic", ["peak_value=0.1", "seed=0:2"]
        options = ["--steps", "5", "--optimizer", "sgd", "--target-loss", "1"]
    else:
        first, pairs = "exponential_decay", ["init_value=1", "transition_steps=10"]
        pairs += ["decay_rate=0.5"]
        options = ["--steps", "20", "--out", str(tmp_path / "x.png")]
    split = 2 * (place // 2)
    words = [first, *options[:split], pairs[0], *options[split:], *pairs[1:]]
    if place == 1:
        words = [*options, first, *pairs]
    assert main([command, *words]) == 0
    printed = capsys.readouterr().out
    assert ("2 runs of 5 steps" if command == "sweep" else "picture:") in printed


@pytest.mark.parametrize("command", [[], ["plot", "x.nc"], ["sweep", "quadratic"]])
def test_unknown_options_are_refused(command, capsys):
    message = refused([*command, *["a=1"] * (command[:1] == ["sweep"]), "--no"], capsys)
    assert "option must be one of --help, " in message
    assert "got '--no'." in message


@pytest.mark.parametrize("value", ["true", "True", "false"])
def test_booleans_are_alike_in_all_commands(value, own_jax, tmp_path, capsys):
    out = str(tmp_path / "x.png")
    numbers = ["init_value=1", "transition_steps=10", "decay_rate=0.5"]
    schedule = ["schedule", "exponential_decay", *numbers, f"staircase={value}"]
    assert main([*schedule, "--steps", "20", "--out", out]) == 0
    stairs = stabjax.exponential_decay(1, 10, 0.5, staircase=value.lower() == "true")
    expected = stabjax.plot.schedule_text(stairs, 20)
    assert expected in capsys.readouterr().out
    sweep = ["sweep", "quadratic", "peak_value=0.1", "momentum=0.9"]
    assert main([*sweep, f"nesterov={value}", "--steps", "5"]) == 0
    assert f"nesterov = {value.title()}" in capsys.readouterr().out


def test_an_accuracy_is_maximized_in_the_summary():
    dims = ("rate", "seed")
    variables = {
        "final_loss": (dims, np.array([[1.0, 2.0], [3.0, 4.0]]), {"better": "lower"}),
        "accuracy": (dims, np.array([[0.1, 0.2], [0.3, 0.4]]), {"better": "higher"}),
        "status": (dims, np.zeros((2, 2), np.int8)),
    }
    attrs = {"trials": 4, "steps": 9, "seconds": 1.0, "compile_seconds": 1.0}
    runs = xr.Dataset(variables, {"rate": [1.0, 2.0], "seed": [0, 1]}, attrs)
    lines = _summary(runs).splitlines()
    best = [n for n, line in enumerate(lines) if line.startswith("best ")]
    assert [lines[n].split()[2] for n in best] == ["final_loss:", "accuracy:"]
    assert lines[best[0] + 1].startswith("  rate = 1")
    assert lines[best[1] + 1].startswith("  rate = 2")


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
