"""The site: every public name has a page, every page is in the table of contents."""

import pathlib
import re
import sys

import pytest
from battery import SCHEDULES, TRANSFORMATIONS
from battery_compat import SCHEDULES as COMPAT

import stabjax

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


@pytest.fixture
def reference(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    import reference

    yield reference
    sys.modules.pop("reference")


def test_every_public_name_has_a_page(reference, tmp_path):
    reference.write(tmp_path)
    names = {name for name in stabjax.__all__ if name not in stabjax._MODULES}
    for module in ("runs", "plot", "problems", "search", "study"):
        names |= {f"{module}.{name}" for name in getattr(stabjax, module).__all__}
    for module in ("torch", "huggingface", "timm"):
        found = getattr(stabjax.compat, module).__all__
        names |= {f"compat.{module}.{name}" for name in found}
    written = {path.stem.removeprefix("stabjax.") for path in tmp_path.glob("*.rst")}
    assert written == names | {"index", "formulas"}


def test_every_page_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text()
    listed = {
        line
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", index, flags=re.DOTALL)
        for line in tree.splitlines()
        if line and not line.startswith(":")
    }
    assert listed == {page.stem for page in PAGES} - {"index"} | {"api/index"}


def test_the_conformance_table_has_every_row_and_every_context():
    rows = re.findall(
        r"^\| `(\S+)` \|(.*)\|$", (DOCS / "conformance.md").read_text(), re.M
    )
    battery = [*TRANSFORMATIONS, *SCHEDULES, *COMPAT]
    assert [name for name, _ in rows] == [str(row) for row in battery]
    assert {mark for _, cells in rows for mark in cells.strip().split(" | ")} == {"✓"}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda p: p.name)
def test_links_between_files_resolve(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not re.match(r"https?:|mailto:|api/", target):
            assert (page.parent / target).exists(), target


def test_formulas_and_markup_of_docstrings_become_rst(reference):
    lines = ["Scales.", "", "    u = g * c", "", "By 2*x_.", "", "Args:", "  x: a_b"]
    lines += ["  y_0: E. **Static.**"]
    lines += ["References:", "  A, 2020, https://a.org", "  B, https://b.org"]
    reference.to_rst(lines)
    expected = ["Scales.", "", "::", "", "    u = g * c", "", r"By 2\*x\_.", ""]
    expected += ["Args:", r"  x: a\_b", r"  y\_0: E\. **Static.**"]
    expected += ["References:", "  A, 2020, https://a.org", ""]
    assert lines == [*expected, "  B, https://b.org", ""]


def test_signatures_show_aliases_and_values(reference):
    signature = "(rate: ~a.B | float, factor: float = LIMIT, known: dict = <factory>)"
    shown = reference.shortened(signature, {"~a.B | float": "Number"}, {"LIMIT": 1e3})
    assert shown == "(rate: Number, factor: float = 1000.0, known: dict = {})"


def test_constants_have_a_description(reference):
    for _, module, names in reference.groups():
        assert all(reference.summary(module, name) for name in names)
