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
