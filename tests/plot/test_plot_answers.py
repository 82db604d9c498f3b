"""Pictures of answers: each shows the numbers of its answer."""

import numpy as np
import pytest

import stabjax


def optimum(**changes):
    numbers = {"value": 0.1, "low": 0.05, "high": 0.2}
    found = stabjax.runs.Optimum(
        axis="rate",
        variable="final_loss",
        value=stabjax.runs.Estimate(**numbers),
        mean=stabjax.runs.Estimate(1.0, 0.9, 1.1),
        within_noise=(0.05, 0.2),
        edge=None,
        flat=False,
        at={},
        seeds=4,
        confidence=0.95,
        values=(0.01, 0.1, 1.0),
        means=(2.0, 1.0, 3.0),
        errors=(0.1, 0.1, 0.1),
        curve=((0.01, 0.1, 1.0), (2.0, 1.0, 3.0)),
        caveats=(),
    )
    return stabjax.runs.Optimum(**{**vars(found), **changes})


def test_optimum_is_drawn_with_its_interval():
    ax = stabjax.plot.answer(optimum())
    assert ax.get_xscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("rate", "mean final_loss")
    low, high = ax.patches[0].get_x(), ax.patches[0].get_width()
    np.testing.assert_allclose([low, low + high], [0.05, 0.2])
    unbounded = optimum(value=stabjax.runs.Estimate(1.0, 0.4, np.inf))
    patch = stabjax.plot.answer(unbounded).patches[0]
    np.testing.assert_allclose(patch.get_x() + patch.get_width(), 1.0)
    alone = optimum(
        value=stabjax.runs.Estimate(0.1, np.nan, np.nan), errors=(np.nan,) * 3
    )
    assert not stabjax.plot.answer(alone).patches
    given = stabjax.plot.panels(1)[0]
    assert stabjax.plot.answer(optimum(), ax=given) is given


def test_differences_are_rows():
    interval = stabjax.runs.Estimate
    lost = interval(np.inf, np.nan, np.nan)
    pairs = [
        stabjax.runs.Difference("a", "b", interval(-1.0, -2.0, 0.5), 0.1, 9),
        stabjax.runs.Difference("a", "c", lost, np.nan, None),
    ]
    found = stabjax.runs.Comparison(
        "kind", "final_loss", (), tuple(pairs), None, 4, 0.95, ()
    )
    ax = stabjax.plot.answer(found)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["a - b", "a - c"]
    assert ax.get_xlabel() == "difference of mean final_loss"
    (container,) = ax.containers
    assert float(container.lines[0].get_xdata()[0]) == -1.0


def test_sensitivity_scaling_and_importance():
    interval = stabjax.runs.Estimate
    found = stabjax.runs.Sensitivity(
        axis="rate",
        variable="final_loss",
        sensitivity=interval(1.0, 0.5, 1.5),
        decades=1.0,
        trains=(0.01, 0.1),
        initial_loss=5.0,
        at={},
        seeds=4,
        confidence=0.95,
        rates=(0.01, 0.1, 1.0),
        losses=(2.0, 1.0, 5.0),
        caveats=(),
    )
    ax = stabjax.plot.answer(found)
    assert ax.get_xscale() == "log"
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [2.0, 1.0, 5.0])
    optima = tuple(interval(1 / w, 0.5 / w, 2 / w) for w in (1, 2, 4))
    sizes = {"width": interval(-1.0, -1.1, -0.9)}
    law = stabjax.runs.Scaling(
        axis="rate",
        factor=1.0,
        exponents=sizes,
        covariance=((0.0, 0.0), (0.0, 0.0)),
        held_out_error=1.0,
        sizes=tuple({"width": w, "steps": 1} for w in (1, 2, 4)),
        optima=optima,
        seeds=4,
        confidence=0.95,
        caveats=(),
    )
    ax = stabjax.plot.answer(law)
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), [1.0, 0.5, 0.25])
    two = stabjax.runs.Scaling(
        **{**vars(law), "exponents": {**sizes, "steps": interval(0.0, 0.0, 0.0)}}
    )
    assert stabjax.plot.answer(two).get_xlabel() == "best rate by the law"
    effects = tuple(
        stabjax.runs.Effect(axes, interval(share, share - 0.1, share + 0.1))
        for axes, share in ((("x",), 0.7), (("x", "y"), 0.2))
    )
    marginals = {
        "x": stabjax.runs.Marginal((1.0, 10.0, 100.0), (1.0, 2.0, 3.0)),
        "y": stabjax.runs.Marginal(("a", np.inf), (1.0, 2.0)),
    }
    found = stabjax.runs.Importance(
        "final_loss", effects, 0.1, 0.01, marginals, 9.0, 4, 0.95, ()
    )
    ax = stabjax.plot.answer(found)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["x", "x x y"]
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], [0.7, 0.2])
    assert stabjax.plot.marginal(found, "x").get_xscale() == "log"
    ax = stabjax.plot.marginal(found, "y")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a", "∞"]
    with pytest.raises(ValueError, match="axis must be one of x, y, got 'z'"):
        stabjax.plot.marginal(found, "z")


def test_other_things_are_refused():
    with pytest.raises(ValueError, match="found must be one of Comparison, Importance"):
        stabjax.plot.answer(stabjax.runs.Estimate(1.0, 0.0, 2.0))
