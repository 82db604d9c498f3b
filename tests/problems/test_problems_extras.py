"""What needs the packages of an extra, and the message if one of them is missing."""

import subprocess
import sys

import pytest

from stabjax import problems

NETWORKS = {
    "adding",
    "boundary_mlp",
    "char_transformer",
    "digits_cnn",
    "digits_mlp",
    "supervised",
    "temporal_order",
}
# Everything that an environment with jax and optax alone does not have.
EXTRAS = ("flax", "sklearn", "xarray", "matplotlib", "tqdm", "chex")


def run_without(packages, code):
    """Runs Python code in a new interpreter that lacks some packages."""
    hidden = f"import sys; sys.modules.update(dict.fromkeys({packages!r}))\n"
    done = subprocess.run(
        [sys.executable, "-c", hidden + code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_problems_given_by_a_formula_train_with_jax_and_optax_alone():
    formulas = sorted(set(problems.__all__) - NETWORKS - {"Problem"})
    lines = run_without(
        EXTRAS,
        f"""
import jax
from stabjax import problems
for name in {formulas}:
    made = getattr(problems, name)()
    if not isinstance(made, str):
        key = jax.random.key(0)
        assert jax.eval_shape(made.loss, made.init(key), key).shape == ()
    print(name)
""",
    )
    assert lines == formulas


@pytest.mark.parametrize("missing", ["flax", "sklearn"])
@pytest.mark.slow
def test_a_missing_package_is_named_with_what_to_install(missing):
    lines = run_without(
        (missing,),
        f"""
from stabjax import problems
for name in {sorted(NETWORKS)}:
    try:
        if name != "supervised":
            getattr(problems, name)()
        elif {missing!r} == "flax":
            problems.supervised
    except ModuleNotFoundError as error:
        print(name, error.name, error)
""",
    )
    needing = NETWORKS if missing == "flax" else {"digits_cnn", "digits_mlp"}
    assert {line.split()[0] for line in lines} == needing
    for line in lines:
        assert line.split()[1].split(".")[0] == missing
        assert f"needs the package '{missing}': pip install 'stabjax[sweep]'" in line
    assert missing != "flax" or all(
        f"stabjax.problems.{n} needs" in " ".join(lines) for n in NETWORKS
    )


def test_every_name_is_listed_and_others_are_unknown():
    assert set(problems.__all__) <= set(dir(problems))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        problems.nothing  # noqa: B018


@pytest.mark.parametrize(
    "name, package, extra",
    [
        ("sweep", "xarray", "sweep"),
        ("grid", "xarray", "sweep"),
        ("runs", "xarray", "sweep"),
        ("plot", "matplotlib", "sweep"),
        ("search", "optuna", "optuna"),
        ("study", "jinja2", "study"),
    ],
)
@pytest.mark.slow
def test_other_parts_name_what_they_need(name, package, extra):
    (message,) = run_without(
        (package,),
        f"""
import stabjax
try:
    stabjax.{name}
except ModuleNotFoundError as error:
    print(error)
""",
    )
    expected = f"stabjax.{name} needs the package {package!r}: pip install "
    assert message == f"{expected}'stabjax[{extra}]'"
