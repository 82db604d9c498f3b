"""How the package speaks: what a program can check of it."""

import ast
import inspect
import pathlib
import re
import types

import pytest

import stabjax
from stabjax import _types

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = pathlib.Path(stabjax.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
PAGES = sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md"])

# Functions without errors of their own.
CANNOT_FAIL = {"constant_schedule"}
METHODS = (types.FunctionType, property, classmethod, staticmethod)
SECTIONS = ["Args", "Attributes", "Returns", "Raises", "Example", "References"]
# Words that read as if translated, and what stands instead.
AVOIDED = {
    r"remed(y|ies)": "treatment",
    r"trainings": "runs",
    r"takes none": "is not supported",
    r"(?<!here )is no (number|function|array|tree|schedule|mapping)": "is not a ...",
    r"and its kin\b|is its like": "and similar functions",
    r"by heart": "persisted",
    r"as one likes|as many .* as one": "any number of",
    r"half[- ]waves?": "half cosine",
    r"straight lines?": "linear",
    r"what is in hand|in hand": "the running chunk",
    r"of which it is": "...",
    r"goes on from|is taken again": "resumes, is recomputed",
    r"so many (steps|waves|times)": "N steps",
    r"Source: ": "References:",
    r"must hold": "must contain",
    r"beyond doubt": "significant",
    r"[Ww]arm-up": "warmup",
    r"zero or greater|zero or less": ">= 0, <= 0",
    r":(func|class|math|mod|meth|attr):": "single backticks",
    r"\.\. math::": "an indented formula",
}
AVOID = re.compile("|".join(rf"(?:{pattern})" for pattern in AVOIDED))


def texts(path):
    """Docstrings, comments and messages of a module, with their lines."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for number, line in enumerate(source.splitlines(), 1):
        if "#" in line:
            yield number, line.partition("#")[2]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_package_avoids_what_reads_translated(path):
    found = [(n, m[0]) for n, text in texts(path) for m in AVOID.finditer(text)]
    assert not found


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_pages_avoid_what_reads_translated(path):
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    assert not [match[0] for match in AVOID.finditer(prose)]


def documented():
    """Every public function and class, by its address."""
    found = {}
    for name in stabjax.__all__:
        value = getattr(stabjax, name)
        if not inspect.ismodule(value):
            found[name] = value
            continue
        for inner in getattr(value, "__all__", ()):
            member = getattr(value, inner)
            if callable(member) and member.__doc__:
                found[f"{name}.{inner}"] = member
            for third in getattr(member, "__all__", ()):
                found[f"{name}.{inner}.{third}"] = getattr(member, third)
    return found


DOCUMENTED = documented()
public = pytest.mark.parametrize("name", DOCUMENTED)


@public
def test_a_docstring_starts_with_one_sentence(name):
    first, *rest = inspect.getdoc(DOCUMENTED[name]).splitlines()
    assert first.rstrip().endswith((".", ":", "?", "`")), first
    assert not rest or not rest[0], "an empty line follows"


@public
def test_sections_stand_in_one_order(name):
    doc = inspect.getdoc(DOCUMENTED[name])
    found = re.findall(r"^([A-Z]\w+):$", doc, flags=re.MULTILINE)
    assert set(found) <= set(SECTIONS)
    places = [SECTIONS.index(section) for section in found]
    assert places == sorted(places)


def section(name, title):
    """The text of a section of a docstring, or an empty string."""
    doc = inspect.getdoc(DOCUMENTED[name])
    found = re.search(rf"^{title}:\n(.*?)(?=^\S|\Z)", doc, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


@public
def test_every_argument_is_documented_in_order(name):
    entries = section(name, "Args") or section(name, "Attributes")
    listed = re.findall(r"^  ((?:\*{0,2}\w+(?:, )?)+):", entries, re.MULTILINE)
    arguments = [a.lstrip("*") for names in listed for a in names.split(", ")]
    assert arguments == [*signature(DOCUMENTED[name])]


@public
def test_a_function_has_a_result_an_example_and_errors(name):
    if inspect.isclass(DOCUMENTED[name]):
        return
    assert section(name, "Returns")
    assert ">>>" in section(name, "Example")
    errors = re.findall(r"^  (\S.*)", section(name, "Raises"), re.MULTILINE)
    assert bool(errors) == (name not in CANNOT_FAIL)
    for error in errors:
        assert re.match(r"\w+(, \w+)*: (If|For) ", error)


@public
def test_methods_are_documented(name):
    for attribute, value in vars(DOCUMENTED[name]).items():
        if not attribute.startswith("_") and isinstance(value, METHODS):
            assert value.__doc__, attribute


@public
def test_papers_have_a_reference(name):
    body, _, references = inspect.getdoc(DOCUMENTED[name]).partition("References:\n")
    assert references or not re.search(r"\bet al\.|\b[Tt]he (paper|authors)\b", body)


@public
def test_references_have_a_link(name):
    _, _, references = inspect.getdoc(DOCUMENTED[name]).partition("References:\n")
    if references:
        old = re.search(r"\b1[89][0-8]\d\b", references)  # before there were links
        assert "https://" in references or old


@public
def test_numbers_say_whether_they_are_traceable(name):
    doc = inspect.getdoc(DOCUMENTED[name])
    numeric = [
        parameter
        for parameter, p in signature(DOCUMENTED[name]).items()
        if p.annotation in (_types.Number, stabjax._types.Number | None)
    ]
    arguments = doc.partition("Args:\n")[2]
    for parameter in numeric:
        text = re.search(
            rf"^ {{2,4}}{parameter}\b.*?(?=^ {{2,4}}\w+(?:, \w+)*:|\Z|^\w)",
            arguments,
            flags=re.MULTILINE | re.DOTALL,
        )
        assert text is None or re.search(r"[Tt]raceable|[Ss]tatic", text[0]), parameter


def signature(value):
    try:
        return inspect.signature(value).parameters
    except (TypeError, ValueError):
        return {}


def raised_messages(path):
    """The literal ends of messages of ValueErrors and TypeErrors."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
            continue
        if getattr(node.exc.func, "id", "") not in ("ValueError", "TypeError"):
            continue
        for argument in node.exc.args:
            last = (
                argument.values[-1] if isinstance(argument, ast.JoinedStr) else argument
            )
            if isinstance(last, ast.Constant) and isinstance(last.value, str):
                yield node.lineno, last.value


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_messages_are_sentences(path):
    bad = [
        (n, m) for n, m in raised_messages(path) if not m.rstrip().endswith((".", "?"))
    ]
    assert not bad
