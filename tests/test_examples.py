"""Every example runs, as a user would run it, and trains."""

import json
import os
import pathlib
import runpy
import subprocess
import sys
import types

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    "name", ["flax_nnx_digits", "flax_linen_digits", "equinox_digits"]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Flax's own
@pytest.mark.slow
def test_digits_examples_reach_95_percent_and_log_metrics(
    name, standard_promotion, capsys
):
    main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    accuracy = main()
    printed = capsys.readouterr().out

    assert accuracy > 0.95
    assert "test accuracy" in printed
    assert "clip/grad_norm" in printed
    if name == "flax_nnx_digits":  # one minibatch is corrupt
        assert "'skip_if_nonfinite/skip_count': 1.0" in printed


def main_of(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
def test_trainability_boundary_draws_its_pictures_and_resumes(
    tmp_path, standard_promotion, capsys
):
    main = main_of("trainability_boundary")
    options = "--resolution 24 --steps 40 --width 4 --picture threshold"
    folders = ["--out", str(tmp_path / "out"), "--store", str(tmp_path / "store")]
    found = main([*options.split(), *folders])
    assert 0.5 < found["threshold"] < 2
    assert (tmp_path / "out" / "trainability_threshold.png").stat().st_size > 5000
    assert "of 576 runs converge" in capsys.readouterr().out
    assert main([*options.split(), *folders]) == found


def test_box_counting_knows_lines_and_areas():
    module = runpy.run_path(str(EXAMPLES / "trainability_boundary.py"))
    above = np.tri(128, dtype=bool)
    assert module["dimension"](above) == pytest.approx(1, abs=0.1)
    noise = np.random.default_rng(0).uniform(size=(128, 128)) < 0.5
    assert module["dimension"](noise) == pytest.approx(2, abs=0.1)
    assert np.isnan(module["dimension"](np.ones((128, 128), bool)))
    assert np.isnan(module["dimension"](np.tri(8, dtype=bool)))
    triangle = np.ones((1, 1), bool)  # Sierpinski's
    for _ in range(8):
        triangle = np.kron(np.array([[1, 0], [1, 1]], bool), triangle)
    assert module["dimension"](triangle) == pytest.approx(np.log2(3), abs=0.1)


@pytest.mark.slow
def test_hypergradient_learns_both_numbers(tmp_path, standard_promotion):
    main = main_of("hypergradient")
    options = "--starts 16 --rounds 30 --resolution 8"
    found = main([*options.split(), "--out", str(tmp_path)])
    assert found["learned"]["median"] < found["initially"]["median"] - 0.5
    assert (tmp_path / "hypergradient.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")  # Orbax's own
def test_float16_transformer_trains_where_optax_stands_still_and_resumes(
    tmp_path, standard_promotion
):
    for needed in ("orbax.checkpoint", "tensorboardX"):
        pytest.importorskip(needed)
    main = main_of("flax_nnx_transformer_float16")
    options = ["--steps", "60", "--checkpoint", str(tmp_path / "half-way")]
    found = main([*options, "--logdir", str(tmp_path / "log")])
    assert any((tmp_path / "log").iterdir())
    optax_losses, losses = found["optax"], found["stabjax"]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.3
    assert abs(np.mean(optax_losses[-10:]) - np.mean(optax_losses[:10])) < 0.1
    assert main(options)["stabjax"] == losses[30:]  # the same bits
    with pytest.raises(SystemExit, match="belongs to a run with 60 steps, not 80"):
        main([*options, "--steps", "80"])


@pytest.mark.slow
def test_fsdp_transformer_equals_one_device_and_resumes(tmp_path):
    """Eight devices and one, stopped and not, as processes of their own."""
    script = """
import json, os, runpy, sys
devices = sys.argv[1]
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
main = runpy.run_path(sys.argv[2])["main"]
losses = main(["--devices", devices, "--steps", "24", "--stop", sys.argv[3]])
print("LOSSES", json.dumps(losses))
"""

    def losses(devices, stop):
        path = str(EXAMPLES / "fsdp_transformer.py")
        command = [sys.executable, "-c", script, devices, path, stop]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.partition("LOSSES ")[2])

    eight, later, one = losses("8", "10"), losses("8", "20"), losses("1", "10")
    assert eight == later  # to the bit, wherever it was stopped
    np.testing.assert_allclose(eight, one, rtol=0.02)  # sums of bfloat16 in other order
    assert eight[-1] < 0.8 * eight[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")  # Orbax's own
def test_accumulation_skips_the_corrupt_microbatch_and_resumes(standard_promotion):
    rest, resumed, recorded = main_of("plain_jax_accumulation")()
    assert resumed == rest  # the same bits
    assert np.isfinite(rest).all() and np.mean(rest[-20:]) < 0.2
    assert recorded["skip_if_nonfinite/skip_count"] == 1
    for group, limit in (("hidden", 1), ("output", 0.1)):
        assert 0 < recorded[f"{group}/clip/update_norm"] <= limit * (1 + 1e-5)


@pytest.mark.slow
def test_logs_reach_both_trackers(tmp_path, standard_promotion, monkeypatch):
    pytest.importorskip("tensorboardX")
    main = main_of("training_logs")
    main(["--folder", str(tmp_path / "board")])
    assert any((tmp_path / "board").iterdir())

    logged, run = {}, types.SimpleNamespace()
    run.log = lambda values, step: logged.update({step: values})
    run.finish = lambda: logged.update(finished=True)
    stand_in = types.SimpleNamespace(init=lambda **options: run)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    main(["--to", "wandb", "--folder", str(tmp_path / "wandb")])
    assert logged.pop("finished") and [*logged] == [*range(0, 100, 10)]
    expected = {"loss", "learning_rate", "clip/grad_norm", "clip/clip_fraction"}
    assert expected <= logged[90].keys()
    assert logged[90]["loss"] < logged[0]["loss"]

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SystemExit, match="pip install wandb"):
        main(["--to", "wandb", "--folder", str(tmp_path)])


@pytest.mark.slow
def test_an_array_of_jobs_fills_one_store(tmp_path):
    """The lines of the batch file as SLURM runs them, with its variables."""
    script = (EXAMPLES / "sweep_cluster.sbatch").read_text()
    store = tmp_path / "runs"
    jobs = []
    for index in range(2):
        slurm = {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_TASK_COUNT": "2"}
        folder = os.path.dirname(sys.executable)
        path = {"PATH": f"{folder}:{os.environ['PATH']}", "STORE": str(store)}
        jobs.append(
            subprocess.Popen(
                ["bash", "-ec", script],
                env={**os.environ, **slurm, **path},
                cwd=EXAMPLES.parent,
            )
        )
    assert [job.wait() for job in jobs] == [0, 0]
    runs = main_of("sweep_cluster")(["--store", str(store), "--report"])
    assert runs.sizes == {"max_norm": 4, "rate": 6, "seed": 4}
    assert runs.final_loss.notnull().all()  # NaN means not run


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Optuna's and SQLAlchemy's
def test_optuna_search_resumes(tmp_path, standard_promotion):
    main = main_of("optuna_search")
    sizes = ["--folder", str(tmp_path), "--batch", "3", "--steps", "20", "--batches"]
    first = main([*sizes, "1"])
    both = main([*sizes, "2"])
    assert [len(first.trials), len(both.trials)] == [6, 6]  # one study, in the file
    assert all(trial.value is not None for trial in both.trials)
