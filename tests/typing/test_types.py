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


def checked(path):
    return api.run(["--strict", "--ignore-missing-imports", str(path)])


@pytest.mark.slow
def test_an_annotated_training_script_type_checks(tmp_path):
    report, errors, status = checked(SCRIPT)
    assert status == 0, report + errors


@pytest.mark.slow
def test_mistakes_are_found(tmp_path):
    path = tmp_path / "mistakes.py"
    path.write_text(MISTAKES)
    report, _, status = checked(path)
    assert status == 1
    for line in (3, 4, 5):
        assert f"mistakes.py:{line}: error" in report, report
