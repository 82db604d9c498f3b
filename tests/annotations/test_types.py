"""A user's annotated script type-checks, and its mistakes are found."""

import pathlib

import pytest

api = pytest.importorskip("mypy.api")
SCRIPT = pathlib.Path(__file__).parent / "training_script.py"
MISTAKES = """
import stabjax
stabjax.with_cooldown(stabjax.constant_schedule(1.0), 10, 5, shape="lineal")
stabjax.linear_schedule("1.0", 0.0, 10)
stabjax.grid(rate=[0.1]).no_such_method()
"""


@pytest.mark.slow
def test_an_annotated_script_type_checks_and_mistakes_are_found(tmp_path):
    path = tmp_path / "mistakes.py"
    path.write_text(MISTAKES)
    options = "--strict", "--ignore-missing-imports", "--no-pretty"
    report, errors, status = api.run([*options, str(SCRIPT), str(path)])
    assert status == 1, errors
    *lines, summary = report.splitlines()
    found = [int(line.split(":")[1]) for line in lines if "mistakes.py" in line]
    assert sorted({*found}) == [3, 4, 5], report
    assert SCRIPT.name not in report, report
    assert "checked 2 source files" in summary, report
