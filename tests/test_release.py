"""What a release is built from agrees with itself."""

import pathlib
import re
import tomllib

import stabjax

ROOT = pathlib.Path(__file__).parents[1]


def test_the_citation_names_this_version():
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert cited[1] == stabjax.__version__


def test_tools_that_judge_the_code_have_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dev = project["optional-dependencies"]["dev"]
    assert [line for line in dev if line.startswith(("mypy==", "ruff=="))] == [
        line for line in dev if line.startswith(("mypy", "ruff"))
    ]


def test_the_changelog_describes_the_version_in_the_tree():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] in ("Unreleased", stabjax.__version__)
