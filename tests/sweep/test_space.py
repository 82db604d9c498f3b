"""Spaces: what an axis may hold, what is static, how trials are counted."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from scipy import stats

import stabjax
from stabjax._sweep.factories import route
from stabjax._sweep.plan import Group, Plan, padded, places, widths
from stabjax._sweep.settings import Settings


def axis(values, name="a"):
    (found,) = stabjax.grid(**{name: values}).axes
    return found


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 2], "i", [1, 2]),
        ((0.5, 1), "f", [0.5, 1.0]),
        (range(3), "i", [0, 1, 2]),
        (np.arange(3, dtype=np.uint8), "u", [0, 1, 2]),
        (np.float16([0.5, 2.0]), "f", [0.5, 2.0]),
        (jnp.array([1.0, jnp.inf]), "f", [1.0, np.inf]),
        (jnp.array([0.5], jnp.bfloat16), "f", [0.5]),
        ([np.float32(0.5), jnp.float32(2.0), 3], "f", [0.5, 2.0, 3.0]),
        (xr.DataArray([1.0, 2.0], dims="a"), "f", [1.0, 2.0]),
    ],
)
def test_numbers_are_an_array(values, kind, expected):
    found = axis(values)
    assert not found.is_static
    assert found.values.dtype.kind == kind
    np.testing.assert_array_equal(found.values, expected)
    np.testing.assert_array_equal(found.labels, expected)


def named(x):
    return x


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["cosine", "linear"], ["cosine", "linear"]),
        (np.array(["cosine", "linear"]), ["cosine", "linear"]),
        ([True, False], [True, False]),
        (np.array([True, False]), [True, False]),
        ([None, "adam"], ["None", "adam"]),
        ([named, functools.partial(max, 1)], ["named", "max"]),
        (stabjax.static([8, 16]), [8, 16]),
        (stabjax.static((8, "all")), ["8", "all"]),
        (stabjax.static([[8, 8], [16]]), ["[8, 8]", "[16]"]),
        (stabjax.static(np.array([8, 16])), [8, 16]),
        (stabjax.static([True, 1.5]), ["True", "1.5"]),
    ],
)
def test_everything_else_is_static(values, labels):
    found = axis(values)
    assert found.is_static
    assert found.labels.tolist() == labels


def test_static_values_reach_the_factory_as_python_values():
    assert [type(v) for v in axis(stabjax.static(np.array([8, 16]))).values] == [
        int
    ] * 2
    assert [type(v) for v in axis(np.array(["a"])).values] == [str]


def test_numbers_are_copied():
    rates = np.array([0.1, 0.2])
    found = axis(rates)
    rates[0] = 9.0
    np.testing.assert_array_equal(found.values, [0.1, 0.2])


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "grid needs at least one axis"),
        ({"a": []}, "axis 'a' must have at least one value"),
        ({"a": stabjax.static([])}, "axis 'a' must have at least one value"),
        ({"a": [1.0, float("nan")]}, "axis 'a' must not contain NaN"),
        ({"a": np.ones((2, 2))}, r"one-dimensional, got an array of shape \(2, 2\)"),
        ({"a": np.float32(1.0)}, r"one-dimensional, got an array of shape \(\)"),
        ({"a": [[1.0], [2.0]]}, "'a' must be one-dimensional, got a sequence of"),
        ({"a": [np.ones(2)]}, "'a' must be one-dimensional, got a sequence of"),
        ({"a": [10**30]}, "'a' must contain integers of at most 64 bits"),
        ({"step": [1]}, "axis 'step' has a reserved name"),
        ({"trial": [1]}, "axis 'trial' has a reserved name"),
        ({"final_loss": [1]}, "axis 'final_loss' has a reserved name"),
        ({"seed": [-1]}, "'seed' must contain integers in .0, 2"),
        ({"seed": [0.5]}, "'seed' must contain integers in .0, 2"),
        ({"seed": [2**31]}, "'seed' must contain integers in .0, 2"),
        ({"seed": ["a"]}, "'seed' must contain integers in .0, 2"),
        ({"seed": stabjax.static([1])}, "'seed' must contain integers in .0, 2"),
        ({"seed": [1, 1]}, "must not contain duplicate seeds"),
        (
            {"a": [lambda: 1, lambda: 2]},
            "two values with the same label, got '<lambda>'",
        ),
    ],
)
def test_bad_values(axes, message):
    with pytest.raises(ValueError, match=message):
        stabjax.grid(**axes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (0.1, r"'a' must be a list.*got 0.1. For a single value, write a=\[0.1\]"),
        ("cosine", r"'a' must be a list.*write a=\['cosine'\]"),
        ({1, 2}, "'a' must be a list"),
        ((x for x in "ab"), "'a' must be a list"),
        ([1.0, "cosine"], r"got float, str. Use static\(...\)"),
        ([1.0, None], "To disable a threshold, use inf"),
        ([1.0, True], "got bool, float"),
        ([1j], "got complex"),
        ([object()], "got object"),
    ],
)
def test_bad_kinds(values, message):
    with pytest.raises(TypeError, match=message):
        stabjax.grid(a=values)


@pytest.mark.parametrize("values", ["abc", 3])
def test_static_takes_a_sequence(values):
    with pytest.raises(TypeError, match="values must be a sequence such as"):
        stabjax.static(values)


def test_trials_are_counted_with_the_last_axis_fastest():
    space = stabjax.grid(a=[1.0, 2.0], kind=["x", "y", "z"], seed=[7, 5])
    assert len(space) == 12
    assert space.shape == (2, 3, 2)
    assert repr(space) == "Space(a: 2, kind: 3, seed: 2; 12 trials, 3 programs)"
    trial = np.ravel_multi_index((1, 2, 0), space.shape)
    assert space.numbers()["a"][space.rows["a"][trial]] == 2.0
    assert space.seeds[trial] == 7
    groups = space.groups()
    assert [statics for statics, _ in groups] == [{"kind": k} for k in "xyz"]
    np.testing.assert_array_equal(groups[1][1], [2, 3, 8, 9])


def test_numbers_get_the_types_of_the_device():
    space = stabjax.grid(rate=[0.1], warmup=[3], short=np.uint8([4]))
    kinds = {name: v.dtype.name for name, v in space.numbers().items()}
    assert kinds == {"rate": "float32", "warmup": "int32", "short": "int32"}
    for values in ([2**31], [1e39]):
        with pytest.raises(
            ValueError, match="'a' must contain values within the range"
        ):
            stabjax.grid(a=values).numbers()


def values(space, name):
    return next(a for a in space.axes if a.name == name).values


def test_zipped_lies_along_one_dimension():
    space = stabjax.zipped(a=[1.0, 2.0, 2.0], kind=["x", "y", "x"], seed=[5, 5, 6])
    assert repr(space) == "Space(trial: 3; 3 trials, 2 programs)"
    assert [d.name for d in space.dimensions] == ["trial"]
    np.testing.assert_array_equal(space.seeds, [5, 5, 6])
    groups = [(statics["kind"], list(trials)) for statics, trials in space.groups()]
    assert groups == [("x", [0, 2]), ("y", [1])]


def test_products_keep_the_dimensions_of_grids_and_merge_the_others():
    first = stabjax.zipped(a=[1.0, 2.0], kind=["x", "y"])
    second = stabjax.zipped(b=[3, 4, 5])
    space = stabjax.grid(c=[7.0]) * first * stabjax.grid(seed=range(2)) * second
    assert repr(space) == "Space(c: 1, trial: 6, seed: 2; 12 trials, 2 programs)"
    np.testing.assert_array_equal(values(space, "a"), [1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(values(space, "b"), [3, 4, 5, 3, 4, 5])
    assert values(space, "kind") == ("x", "x", "x", "y", "y", "y")
    trial = np.ravel_multi_index((0, 4, 1), space.shape)
    found = {n: v[space.rows[n][trial]] for n, v in space.numbers().items()}
    assert found == {"a": 2.0, "b": 4, "c": 7.0}
    assert space.groups()[1][0] == {"kind": "y"}
    coordinates = space.coordinates()
    assert coordinates["a"][0] == coordinates["kind"][0] == "trial"
    np.testing.assert_array_equal(coordinates["trial"][1], range(6))
    assert coordinates["kind"][2] == {"static": "['x', 'y']"}


def test_a_product_of_grids_is_a_grid():
    space = stabjax.grid(a=[1.0]) * stabjax.grid(b=[1, 2])
    assert repr(space) == repr(stabjax.grid(a=[1.0], b=[1, 2]))
    with pytest.raises(TypeError, match="unsupported operand"):
        space * 3


@pytest.mark.parametrize("kind", ["random", "sobol", "halton"])
def test_samples_follow_their_distributions(kind):
    def draw(n, seed=3):
        return stabjax.sample(
            n,
            seed,
            kind,
            rate=stats.loguniform(1e-3, 1e1),
            layers=stats.randint(1, 5),
            normal=stats.norm(2.0, 3.0),
            width=[8, 16],
            schedule=["cosine", "linear", None],
        )

    space = draw(1024)
    exponents = np.log10(values(space, "rate"))
    assert stats.kstest(exponents, stats.uniform(-3, 4).cdf).pvalue > 0.01
    assert stats.kstest(values(space, "normal"), stats.norm(2, 3).cdf).pvalue > 0.01
    assert values(space, "layers").dtype.kind == "i"
    kinds, counts = np.unique(values(space, "layers"), return_counts=True)
    np.testing.assert_array_equal(kinds, [1, 2, 3, 4])
    assert counts.min() > 200  # 256 expected, standard deviation 14
    assert {*values(space, "width").tolist()} == {8, 16}
    choices = values(space, "schedule")
    assert min(map(choices.count, ("cosine", "linear", None))) > 280
    # The same seed, the same points; a larger sample begins with the smaller one.
    np.testing.assert_array_equal(
        values(draw(100), "rate"), values(space, "rate")[:100]
    )
    assert (values(draw(100, 4), "rate") != values(space, "rate")[:100]).all()


def test_low_discrepancy_points_fill_the_square_more_evenly():
    def discrepancy(kind):
        space = stabjax.sample(256, 0, kind, a=stats.uniform(), b=stats.uniform())
        return stats.qmc.discrepancy(np.stack([a.values for a in space.axes], axis=1))

    assert discrepancy("sobol") < discrepancy("halton") < discrepancy("random") / 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stabjax.zipped(), "zipped needs at least one axis"),
        (
            lambda: stabjax.zipped(a=[1, 2], b=[1, 2, 3]),
            "same length, got a: 2, b: 3",
        ),
        (lambda: stabjax.zipped(a=[np.nan]), "'a' must not contain NaN"),
        (lambda: stabjax.zipped(a=[]), "'a' must have at least one value"),
        (
            lambda: stabjax.zipped(a=[lambda: 1, lambda: 2]),
            "the same label, got '<lambda>'",
        ),
        (lambda: stabjax.grid(a=["x", "x"]), "axis 'a' must not contain 'x' twice"),
        (
            lambda: stabjax.grid(a=[1]) * stabjax.zipped(a=[2]),
            "'a' must not be in",
        ),
        (
            lambda: stabjax.sample(8, a=[1]),
            r"seed must be .* got None.*sample\(8, 0, ...\)",
        ),
        (
            lambda: stabjax.sample(8, seed=0, a=[1]),
            "seed must be .* >= 0, got None",
        ),
        (lambda: stabjax.sample(8, -1, a=[1]), "seed must be an integer >= 0, got -1"),
        (lambda: stabjax.sample(0, 0, a=[1]), "n must be an integer >= 1, got 0"),
        (lambda: stabjax.sample(2.0, 0, a=[1]), "n must be an integer >= 1, got 2.0"),
        (lambda: stabjax.sample(8, 0), "sample needs at least one axis"),
        (
            lambda: stabjax.sample(8, 0, "grid", a=[1]),
            "points must be 'random', 'sobol' or",
        ),
        (
            lambda: stabjax.sample(8, 0, a=stats.loguniform(-1, 1)),
            "'a' must not contain NaN",
        ),
        (
            lambda: stabjax.sample(8, 0, seed=stats.norm()),
            "'seed' must contain integers",
        ),
        (lambda: stabjax.sample(8, 0, step=[1]), "'step' has a reserved name"),
    ],
)
def test_bad_spaces(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Chunks(NamedTuple):
    width: int
    shared_seed: bool
    trials: list[Any]


def chunks_of(space, chunk_size, auto):
    found = widths(space, np.arange(len(space)), chunk_size, auto)
    groups = (Group({}, *found, {}),)
    plan = Plan(space, (space.shape,), {}, Settings(1), groups, {}, {})
    return Chunks(*found, [chunk.trials for chunk in plan.chunks()])


def check_chunks(chunks, size):
    assert sorted(np.concatenate(chunks.trials).tolist()) == list(range(size))
    assert all(0 < len(trials) <= chunks.width for trials in chunks.trials)


def test_chunks_keep_to_one_seed_where_seeds_fill_them():
    space = stabjax.grid(a=np.arange(10.0), seed=range(3))
    chunks = chunks_of(space, None, 4)  # ten in three chunks: of four, not of 4, 4, 2
    check_chunks(chunks, 30)
    assert (chunks.width, chunks.shared_seed, len(chunks.trials)) == (4, True, 9)
    seeds = space.seeds
    assert all(len(set(seeds[trials])) == 1 for trials in chunks.trials)


def test_chunks_are_narrower_where_they_can_keep_to_one_seed():
    space = stabjax.grid(a=np.arange(10.0), seed=range(3))
    for auto in (16, 40):
        chunks = chunks_of(space, None, auto)
        check_chunks(chunks, 30)
        assert (chunks.width, chunks.shared_seed, len(chunks.trials)) == (10, True, 3)


def test_chunks_mix_seeds_where_a_seed_has_too_few_trials():
    space = stabjax.grid(a=np.arange(10.0), seed=range(5))
    chunks = chunks_of(space, None, 41)
    check_chunks(chunks, 50)
    assert (chunks.width, chunks.shared_seed, len(chunks.trials)) == (25, False, 2)


def test_a_single_seed_is_always_shared():
    chunks = chunks_of(stabjax.grid(a=np.arange(10.0)), None, 16)
    check_chunks(chunks, 10)
    assert (chunks.width, chunks.shared_seed) == (10, True)


def test_a_space_without_numbers_batches_its_seeds():
    for space in (stabjax.grid(seed=range(3)), stabjax.grid(kind=["x"])):
        chunks = chunks_of(space, None, 16)
        check_chunks(chunks, len(space))
        assert not chunks.shared_seed


def test_a_chunk_size_is_taken_as_it_is():
    chunks = chunks_of(stabjax.grid(a=np.arange(10.0)), 64, 16)
    assert chunks.width == 64
    np.testing.assert_array_equal(padded(np.array([3, 4]), 5), [3, 4, 4, 4, 4])


def test_consecutive_trials_are_a_slice():
    assert places(np.array([3, 4, 5])) == slice(3, 6)
    assert places(np.array([3])) == slice(3, 4)
    for trials in ([3, 5, 6], [3, 5, 4, 6], [6, 5, 4]):
        np.testing.assert_array_equal(places(np.array(trials)), trials)


PROBLEM = stabjax.problems.Problem(lambda key: jnp.ones(2), lambda w, key: w.sum())


def test_axes_go_by_name():
    def make_problem(kappa, noise=0.0):
        del kappa, noise

    def make_optimizer(rate, kappa, *, decay=0.9):
        del rate, kappa, decay

    found = route(make_problem, make_optimizer, ["rate", "seed", "noise", "kappa"])
    assert found.problem_axes == ("noise", "kappa")
    assert found.optimizer_axes == ("rate", "kappa")
    assert route(PROBLEM, make_optimizer, ["rate", "kappa"]).problem is PROBLEM


@pytest.mark.parametrize(
    ("problem", "make", "error", "message"),
    [
        ("quadratic", lambda a: a, TypeError, "problem must be a Problem.*'quadratic'"),
        (3, lambda a: a, TypeError, "problem must be a Problem.* got int"),
        (PROBLEM, "adam", TypeError, "make_optimizer must be a function.* got 'adam'"),
        (PROBLEM, None, TypeError, "make_optimizer must be a function"),
        (PROBLEM, lambda a, b: a, ValueError, "make_optimizer has a parameter 'b'"),
        (lambda b: b, lambda a: a, ValueError, "problem has a parameter 'b' without"),
        (
            PROBLEM,
            lambda a, seed: a,
            ValueError,
            "'seed'.* reserved for the random",
        ),
        (PROBLEM, lambda **a: a, TypeError, r"must have only named parameters.* \*\*a"),
        (PROBLEM, lambda *a: a, TypeError, r"must have only named parameters.* \*a"),
        (PROBLEM, lambda a, /: a, TypeError, "must have only named parameters"),
        (PROBLEM, lambda: 1, ValueError, r"axis 'a' is not used.*\(no parameters\)"),
        (
            lambda c=1: c,
            lambda b=1: b,
            ValueError,
            r"optimizer \(b\) nor problem \(c\)",
        ),
    ],
)
def test_bad_routes(problem, make, error, message):
    with pytest.raises(error, match=message):
        route(problem, make, ["a"])
