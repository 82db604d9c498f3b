"""Arguments of the analytic problems: any number may be traced, bad ones are named."""

import inspect
import math
import pathlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stabjax import problems

KEY = jax.random.key(0)
DOCS = pathlib.Path(__file__).parents[2] / "docs"
# Problems described in words alone.
PROSE = {"bracket_text", "copy_text", "digits_cnn", "temporal_order"}
# Every number of every problem, each with two values.
NUMBERS = {
    "quadratic": {
        "curvature": (0.5, 3.0),
        "noise": (0.1, 2.0),
        "init_scale": (0.1, 10.0),
    },
    "ill_conditioned_quadratic": {
        "condition_number": (1.0, 1000.0),
        "curvature": (0.5, 3.0),
        "noise": (0.1, 2.0),
        "init_scale": (0.1, 10.0),
    },
    "rosenbrock": {
        "steepness": (1.0, 50.0),
        "noise": (0.1, 2.0),
        "init_spread": (0.0, 0.5),
    },
    "cliff": {
        "steepness": (0.0, 30.0),
        "width": (0.01, 0.5),
        "noise": (0.1, 2.0),
        "init_scale": (0.1, 10.0),
    },
    "deep_linear_chain": {
        "init_scale": (0.5, 1.5),
        "target": (0.5, 2.0),
        "noise": (0.1, 2.0),
    },
    "tied_product": {
        "init_scale": (0.5, 1.5),
        "target": (0.5, 2.0),
        "noise": (0.1, 2.0),
        "init_spread": (0.0, 0.2),
    },
    "deep_linear": {"init_scale": (0.3, 1.0), "noise": (0.1, 2.0)},
    "quadratic_deep": {"noise": (0.1, 2.0), "init_scale": (0.1, 10.0)},
    "random_quadratic": {
        "problem_seed": (3, 4),
        "noise": (0.1, 2.0),
        "init_scale": (0.1, 10.0),
    },
    "heavy_tailed_quadratic": {
        "tail": (1.2, 3.0),
        "noise": (0.1, 2.0),
        "init_scale": (0.1, 10.0),
    },
    "beale": {"noise": (0.1, 2.0), "init_spread": (0.0, 0.5)},
    "branin": {"noise": (0.1, 2.0), "init_spread": (0.0, 0.5)},
    "quartic": {
        "start": (3.0, 30.0),
        "noise": (0.1, 2.0),
        "init_spread": (0.0, 0.5),
    },
    "cosh": {
        "l0": (0.5, 2.0),
        "l1": (0.5, 2.0),
        "start": (1.0, 5.0),
        "noise": (0.1, 2.0),
        "init_spread": (0.0, 0.5),
    },
    "single_unit_rnn": {"noise": (0.1, 2.0), "init_spread": (0.0, 0.5)},
}
NETWORK_NUMBERS = {"init_scale", "recurrent_scale", "weight_offset"}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.slow
def test_every_number_can_be_traced(name):
    signature = inspect.signature(getattr(problems, name)).parameters.values()
    numbers = [p.name for p in signature if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert list(NUMBERS[name]) == numbers

    def outcome(arguments):
        problem = getattr(problems, name)(**arguments)
        w = problem.init(KEY)
        value, gradient = jax.value_and_grad(problem.loss)(w, KEY)
        metadata = {
            k: v for k, v in problem.metadata.items() if k not in ("name", "optimizer")
        }
        return w, value, gradient, metadata

    arrays = {k: jnp.array(v, jnp.float32) for k, v in NUMBERS[name].items()}
    traced = jax.jit(jax.vmap(outcome))(arrays)
    for i in range(2):
        known = {k: v[i] for k, v in NUMBERS[name].items()}
        expected = jax.jit(lambda: outcome(known))()  # noqa: B023
        one = jax.tree.map(lambda array, i=i: array[i], traced)
        chex.assert_trees_all_close(one, expected, rtol=2e-4, atol=1e-6)


def test_concrete_arrays_and_integers_are_numbers_too():
    for value in (3, np.float64(3), np.int32(3), np.array(3.0), jnp.array(3)):
        problem = problems.quadratic(curvature=value)
        assert problem.metadata["stable_rate"] == 2 / 3
        assert problem.loss(jnp.ones(2), KEY) == 3.0
    traced = jax.jit(lambda c: problems.quadratic(c).loss(jnp.ones(2), KEY))
    assert traced(jnp.array(3)) == 3.0


@pytest.mark.parametrize("name", NUMBERS)
def test_loss_keeps_the_dtype_of_the_weights(name):
    problem = getattr(problems, name)(noise=0.1)
    w = problem.init(KEY).astype(jnp.bfloat16)
    value, gradient = jax.eval_shape(jax.value_and_grad(problem.loss), w, KEY)
    assert value.dtype == gradient.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: problems.quadratic(-1.0), ValueError, "curvature must be > 0, got -1"),
        (
            lambda: problems.quadratic(math.nan),
            ValueError,
            "curvature must be finite, got nan",
        ),
        (lambda: problems.quadratic("2"), TypeError, "curvature .* number, got '2'"),
        (lambda: problems.rosenbrock(None), TypeError, "steepness .* got None"),
        (
            lambda: problems.cliff(width=jnp.ones(3)),
            TypeError,
            "width .* single number",
        ),
        (lambda: problems.cliff(noise=-1), ValueError, "noise must be >= 0, got -1"),
        (
            lambda: problems.ill_conditioned_quadratic(0.5),
            ValueError,
            "condition_number must be >= 1, got 0.5",
        ),
        (
            lambda: jax.vmap(lambda c: problems.quadratic(c).metadata["optimum"])(
                jnp.ones((2, 3))
            ),
            TypeError,
            "curvature must be a single number",
        ),
        (
            lambda: jax.jit(lambda d: problems.deep_linear_chain(depth=d).init(KEY))(3),
            TypeError,
            r"depth must be an integer .* In a sweep, .* stabjax.static\(...\)",
        ),
        (
            lambda: problems.quadratic(dim=0),
            ValueError,
            "dim must be an integer >= 1, got 0",
        ),
        (
            lambda: problems.random_quadratic(0.5),
            ValueError,
            "problem_seed must be an integer .* got 0.5",
        ),
        (
            lambda: problems.random_quadratic(2**24 + 2),
            ValueError,
            r"problem_seed .* \[0, 2\*\*24\], got 16777218",
        ),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    ("value", "error", "rule"),
    [
        (None, TypeError, "a number"),
        ("1", TypeError, "a number"),
        (True, TypeError, "a number"),
        (1j, TypeError, "a number"),
        ([1.0, 2.0], TypeError, "a single number"),
        (math.nan, ValueError, "finite"),
        (math.inf, ValueError, "finite"),
        (-1.0, ValueError, "> 0|>= 0|>= 1"),
    ],
)
def test_every_number_of_every_problem_is_checked(name, value, error, rule):
    for argument in NUMBERS[name]:
        message = rf"^{argument} must be ({rule}), got .*\.$"
        with pytest.raises(error, match=message):
            getattr(problems, name)(**{argument: value})


def test_products_too_large_for_a_float_have_no_stable_rate():
    for make in (problems.tied_product, problems.deep_linear_chain):
        assert make(1.3, depth=5000).metadata["stable_rate"] == 0


def test_traced_arguments_out_of_range_become_nan():
    values = jnp.array([-1.0, 0.0, 2.0])
    losses = jax.vmap(lambda c: problems.quadratic(c).loss(jnp.ones(2), KEY))(values)
    np.testing.assert_array_equal(losses, [np.nan, np.nan, 2.0])
    spreads = jax.vmap(lambda r: problems.rosenbrock(init_spread=r).init(KEY))(values)
    np.testing.assert_array_equal(np.isnan(spreads[:, 0]), [True, False, False])


def test_every_problem_has_metadata_and_references():
    for name in set(problems.__all__) - {"Problem", "supervised"}:
        make = getattr(problems, name)
        before_arguments = inspect.getdoc(make).partition("Args:")[0]
        # A formula stands on a line of its own, indented.
        assert re.search(r"^    \S.*=", before_arguments, re.M) or name in PROSE
        assert "References:" in make.__doc__
        if name.endswith("_text"):
            continue
        metadata = make().metadata
        assert metadata["name"] == name
        assert ("optimum" in metadata) == ("minimizer" in metadata)
        best = metadata.get("optimum", 0.0)
        assert best < metadata["target_loss"] < metadata.get("baseline", math.inf)
        for low, high in (metadata["peak_value"], metadata["max_norm"]):
            assert 0 < low < high < math.inf
        assert isinstance(metadata["steps"], int)
        assert callable(metadata["optimizer"])
        if "optimum" not in metadata:
            assert metadata["baseline"] > 0


def test_every_argument_says_whether_it_may_be_traced():
    for name in set(problems.__all__) - {"Problem", "supervised"}:
        make = getattr(problems, name)
        entries = inspect.getdoc(make).partition("Args:\n")[2].partition("\n\n")[0]
        found = dict(re.findall(r"^  (\w+): ((?:.+\n?)(?:    .+\n?)*)", entries, re.M))
        parameters = inspect.signature(make).parameters
        assert list(found) == list(parameters), name
        for argument, text in found.items():
            traceable = argument in NUMBERS.get(name, NETWORK_NUMBERS)
            word = "**Traceable.**" if traceable else "**Static.**"
            assert text.strip().endswith(word), (name, argument)


def test_every_problem_is_in_the_catalogue_with_a_picture():
    page = (DOCS / "problems.md").read_text()
    texts = {"bracket_text", "copy_text", "markov_text"}
    for name in set(problems.__all__) - {"Problem"}:
        assert f"`{name}`" in page or f"stabjax.problems.{name}`" in page
        if name not in texts | {"supervised"}:
            assert f"(problems/{name}.png)" in page
            assert (DOCS / "problems" / f"{name}.png").exists()
    pictures = [path.stat().st_size for path in DOCS.rglob("*.png")]
    assert sum(pictures) < 2**20
