"""The house: who may import whom, what stays light, what every public name has."""

import ast
import importlib
import operator
import pathlib
import re
import subprocess
import sys

import optax
import pytest

import stabjax

PACKAGE = pathlib.Path(stabjax.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

# What each part may import of the others.
GROUND = {"_types", "_arguments", "_paths", "_extras"}  # which everything may use
ARROWS = {
    "_types": set(),
    "_arguments": set(),
    "_paths": set(),
    "_intervals": set(),
    "_outcomes": set(),
    "_axes": set(),
    "_branches": set(),
    "_norms": {"_axes"},
    "_scaling": {"_norms"},
    "_metrics": {"_axes", "_norms"},
    "_clipping": {"_axes", "_norms", "_scaling", "_metrics"},
    "_groups": {"_metrics"},
    "_guards": {"_axes", "_norms", "_scaling", "_metrics", "_schedules"},
    "_schedules": set(),
    "_train": {"_branches", "_guards", "_metrics"},
    "problems": {"_train"},
    "_sweep": {"_train"},
    "runs": {"_clipping", "_intervals", "_outcomes", "_sweep", "_train"},
    "plot": {"_intervals", "_outcomes", "_schedules"},
    "search": {"_sweep", "runs"},
    "_catalogue": {"_clipping", "_guards", "_schedules", "problems"},
    "compat": {"_branches", "_guards", "_norms", "_scaling", "_schedules"},
}
HEAVY = ("xarray", "scipy.stats", "sklearn", "flax", "matplotlib", "tqdm", "optuna")
HEAVY += ("torch", "transformers", "timm")
# Functions with more than six parameters that are not Optax's, argued for one by one:
# `sweep` by the design, and `train`, which says of one training what `sweep` says of
# all; `successive_halving` is a sweep with a rule; `supervised` names a module, its
# data, its loss and its batch; SPAM, Stable-SPAM, `zclip`, `adagc` and
# `adaptive_quantile_clip` have as many
# in their authors' code; plots name axes, a variable, its direction and its target.
MANY_PARAMETERS = {
    "adagc",
    "adaptive_quantile_clip",
    "heatmap",
    "rate_ranges",
    "scale_by_spam",
    "scale_by_stable_spam",
    "sensitivity",
    "stable_fraction",
    "successive_halving",
    "supervised",
    "sweep",
    "train",
    "zclip",
}


def part_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_imported(path):
    names = [name.split(".") for name in imports(path)]
    own = {name[1] for name in names if name[0] == "stabjax" and len(name) > 1}
    return own - {part_of(path)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_one_way(path):
    part, used = part_of(path), parts_imported(path)
    assert "cli" not in used or part == "cli"
    if part in ARROWS:
        assert used <= ARROWS[part] | GROUND
    if part != "plot":
        assert not any(name.split(".")[0] == "matplotlib" for name in imports(path))


def test_the_page_on_the_house_has_the_same_arrows():
    page = (PACKAGE.parent / "docs" / "house.md").read_text()
    rows = re.findall(r"^\| (`.*?`) \| .* \| (.*?) ?\|$", page, flags=re.MULTILINE)
    shown = {
        part: set(re.findall(r"`(\w+)`", used))
        for parts, used in rows
        for part in re.findall(r"`(\w+)`", parts)
    }
    assert shown == {p: u for p, u in ARROWS.items() if p not in GROUND} | {
        "cli": set(),  # which may import everything
        "study": {"cli"},  # everything else
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 400


def functions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def code_lines(function, path):
    """Lines of code: no docstring, comments, blanks, and no functions inside."""
    first = function.body[1] if ast.get_docstring(function) else function.body[0]
    inner = {
        line
        for node in ast.walk(function)
        if isinstance(node, ast.FunctionDef) and node is not function
        for line in range(node.lineno, node.end_lineno + 1)
    }
    source = path.read_text().splitlines()
    numbers = set(range(first.lineno, function.end_lineno + 1)) - inner
    text = [source[number - 1].strip() for number in numbers]
    return sum(bool(line) and not line.startswith("#") for line in text)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_are_short_and_take_few_parameters(path):
    for function in functions(path):
        assert code_lines(function, path) <= 40, function.name
        arguments = function.args
        number = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
        if part_of(path) == "compat":  # signatures of PyTorch and others
            continue
        if number > 6 and function.name not in MANY_PARAMETERS:
            known = optax, optax.contrib
            assert any(hasattr(m, function.name) for m in known), function.name


def test_the_core_imports_nothing_heavy():
    code = "import sys, stabjax, stabjax.compat; "
    code += f"print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_public_names_are_sorted_and_exist():
    assert sorted(stabjax.__all__) == stabjax.__all__
    assert {*stabjax.__all__, "__version__"} == set(dir(stabjax))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        stabjax.nothing  # noqa: B018


def test_type_checkers_read_the_names_that_are_loaded():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    homes, modules = {}, set()
    for node in stub.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        names = [alias.name for alias in node.names]
        if names == ["*"]:
            names = importlib.import_module(node.module).__all__
        if node.module == "stabjax":
            modules |= {*names}
        else:
            homes |= dict.fromkeys(names, node.module.removeprefix("stabjax."))
    assert homes == stabjax._HOME_OF
    assert modules == {*stabjax._MODULES}


@pytest.mark.parametrize("name", sorted({*stabjax._RENAMED} - {*stabjax.__all__}))
def test_an_old_name_says_what_it_is_called_now(name):
    new = stabjax._RENAMED[name]
    assert operator.attrgetter(new)(stabjax).__doc__
    with pytest.raises(AttributeError, match=rf"is now stabjax\.{new}"):
        getattr(stabjax, name)


@pytest.mark.slow
def test_a_training_needs_jax_optax_and_numpy_alone():
    code = (
        "import sys\n"
        f"for name in {HEAVY}: sys.modules[name] = None\n"
        "import jax, optax, stabjax\n"
        "from stabjax._train import Problem\n"
        "loss = lambda w, key: (w * w).sum()\n"
        "problem = Problem(lambda key: jax.numpy.ones(2), loss)\n"
        "run = stabjax.train(problem, optax.sgd(0.1), jax.random.key(0), steps=3)\n"
        "keys = jax.random.split(jax.random.key(0), 2)\n"
        "test = stabjax.range_test(problem, optax.sgd, keys)\n"
        "stabjax.suggest_rate(test.rates, test.smoothed)\n"
        "print(int(run.status))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


OF_COMPAT = [
    f"compat.{library}.{name}"
    for library in stabjax.compat.__all__
    for name in getattr(stabjax.compat, library).__all__
]


@pytest.mark.parametrize("name", [*stabjax.__all__, *OF_COMPAT])
def test_public_names_are_documented(name):
    documented = operator.attrgetter(name)(stabjax)
    assert documented.__doc__
    if isinstance(documented, type):
        assert "Attributes:" in documented.__doc__
    elif callable(documented):
        for section in ("Args:", "Returns:", "Example:"):
            assert section in documented.__doc__
