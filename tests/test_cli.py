"""The command line: what it prints, and how it refuses."""

import pytest

import stabjax
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
        (["clip_schedule"], "unknown schedule 'clip_schedule'"),
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
