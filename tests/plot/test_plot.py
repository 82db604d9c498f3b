"""Pictures draw what the dataset says, and touch nothing global."""

import io

import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot  # noqa: TID251
from matplotlib.collections import LineCollection, PolyCollection  # noqa: TID251
from pictures import assert_drawn, curves, meshes, runs

import stabjax
from stabjax import plot

INF, NAN = np.inf, np.nan


class TestHeatmap:
    dataset = runs(
        [[1e-3, 1e-2, INF], [1e-4, 1.0, INF], [1.0, INF, INF]],
        max_norm=[0.1, 1.0, INF],
        rate=[0.01, 0.1, 1.0],
    )

    def draw(self, dataset=None, **options):
        dataset = self.dataset if dataset is None else dataset
        return plot.heatmap(dataset, x="rate", y="max_norm", **options)

    def test_cells_are_the_values_with_a_gap_before_infinity(self):
        values, diverged = (mesh.get_array() for mesh in meshes(self.draw()))
        assert values.shape == (4, 3)
        assert values.mask.tolist() == [
            [False, False, True],
            [False, False, True],
            [True, True, True],
            [False, True, True],
        ]
        assert values[0].compressed().tolist() == [1e-3, 1e-2]
        assert (~np.ma.getmaskarray(diverged)).sum() == 4

    def test_axes_are_logarithmic_because_the_values_are(self):
        ax = self.draw()
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        cells = meshes(ax)[0].get_coordinates()
        np.testing.assert_allclose(
            cells[0, :, 0], 10 ** np.array([-2.5, -1.5, -0.5, 0.5])
        )
        labels = [label.get_text() for label in ax.get_yticklabels()]
        assert labels[-1] == r"$\infty$"
        assert ax.get_xlabel() == "rate"
        assert ax.get_ylabel() == "max norm"

    def test_even_values_have_even_cells(self):
        even = runs(np.ones((2, 3)), max_norm=[0.0, 1.0], rate=[1.0, 2.0, 3.0])
        ax = self.draw(even)
        assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "linear")
        cells = meshes(ax)[0].get_coordinates()
        np.testing.assert_allclose(cells[0, :, 0], [0.5, 1.5, 2.5, 3.5])

    def test_names_stand_side_by_side(self):
        named = runs(np.ones((2, 2)), max_norm=["fixed", "learned"], rate=[0.1, 1.0])
        labels = [label.get_text() for label in self.draw(named).get_yticklabels()]
        assert labels == ["fixed", "learned"]

    def test_border_runs_between_what_held_and_what_diverged(self):
        (border,) = [c for c in self.draw().collections if type(c) is LineCollection]
        segments = [np.round(np.log10(s), 6).tolist() for s in border.get_segments()]
        # Right of the second rate for both thresholds; right of the first without one.
        vertical = [s for s in segments if s[0][0] == s[1][0]]
        assert sorted(s[0][0] for s in vertical) == [-1.5, -0.5, -0.5]
        assert len(segments) == len(vertical)  # rows above and below are a gap apart

    def test_star_is_on_the_smallest_value(self):
        (star,) = self.draw().get_lines()
        assert star.get_xydata().tolist() == [[0.01, 1.0]]

    def test_star_is_in_the_middle_of_equals(self):
        dataset = runs(
            [[2.0, 2, 2, 2], [1, 1, 1, 2]], max_norm=[1.0, 10.0], rate=[1, 2, 3, 4]
        )
        (star,) = self.draw(dataset).get_lines()
        assert star.get_xydata().tolist() == [[2.0, 10.0]]

    def test_other_dimensions_are_pooled_by_the_median(self):
        seeds = runs([[[1.0, 2.0, INF]]], max_norm=[1.0], rate=[1.0], seed=[0, 1, 2])
        values, diverged = (mesh.get_array() for mesh in meshes(self.draw(seeds)))
        assert values.item() == 2.0
        assert diverged.mask.all()

    def test_legend_names_what_the_colors_do_not(self):
        texts = [text.get_text() for text in self.draw().get_legend().get_texts()]
        assert texts == ["diverged", "smallest"]

    def test_everything_diverged(self):
        diverged = runs(np.full((2, 2), INF), max_norm=[1.0, 2.0], rate=[1.0, 2.0])
        ax = self.draw(diverged)
        assert not ax.get_lines()
        ax.figure.savefig(io.BytesIO())

    def test_limits_fix_the_colors(self):
        ax = self.draw(limits=(1e-2, 10.0))
        assert meshes(ax)[0].norm.vmin == 1e-2
        assert meshes(ax)[0].norm.vmax == 10.0

    # A diverged run has an accuracy as well: that of its last parameters.
    measured = dataset.assign(
        accuracy=(
            ("max_norm", "rate"),
            [[0.2, 0.9, 0.99], [0.5, 0.3, 0.99], [0.1, 0.99, 0.99]],
        )
    )

    @pytest.mark.parametrize(
        "maximize, best, label",
        [(True, [0.1, 0.1], "largest"), (False, [0.01, INF], "smallest")],
    )
    def test_star_is_on_the_best_run_that_did_not_diverge(self, maximize, best, label):
        ax = self.draw(self.measured, variable="accuracy", maximize=maximize)
        (star,) = ax.get_lines()
        rate, max_norm = star.get_xydata()[0]
        assert rate == best[0]
        assert max_norm == best[1] or max_norm > 1.0 and best[1] == INF
        texts = [text.get_text() for text in ax.get_legend().get_texts()]
        assert texts == ["diverged", label]
        _, diverged = (mesh.get_array() for mesh in meshes(ax))
        assert (~np.ma.getmaskarray(diverged)).sum() == 4

    @pytest.mark.parametrize("maximize", [True, False])
    def test_star_among_points_is_on_the_best_too(self, maximize):
        points = self.measured.stack(trial=("max_norm", "rate")).reset_index("trial")
        points = points.where(np.isfinite(points.max_norm), drop=True)
        points["status"] = points.status.astype(int)
        ax = self.draw(points, variable="accuracy", maximize=maximize)
        (star,) = ax.get_lines()
        expected = [0.1, 0.1] if maximize else [0.01, 0.1]
        assert star.get_xydata().tolist() == [expected]

    def test_when_runs_diverged_is_drawn_as_numbers(self):
        at = (("max_norm", "rate"), [[9, 9, 2], [9, 9, 3], [9, 4, 5]])
        ax = self.draw(self.dataset.assign(diverged_at=at), variable="diverged_at")
        values, diverged = (mesh.get_array() for mesh in meshes(ax))
        assert values.compressed().tolist() == [9, 9, 2, 9, 9, 3, 9, 4, 5]
        assert diverged.mask.all()

    @pytest.mark.parametrize("low", [0.0, -1.0])
    def test_losses_that_are_not_positive(self, low):
        dataset = runs([[low, 1.0]], max_norm=[1.0], rate=[1.0, 2.0])
        assert_drawn(self.draw(dataset))


class TestLearningCurves:
    def test_median_and_band_of_the_seeds(self):
        loss = np.geomspace(1.0, 1e-2, 11)[:, None] * np.array([1.0, 0.5])
        ax = plot.learning_curves(
            curves(loss, seed=range(11)).assign_coords(step=[0, 5])
        )
        (line,) = ax.get_lines()
        assert line.get_xdata().tolist() == [0, 5]
        np.testing.assert_allclose(line.get_ydata(), [0.1, 0.05])
        (band,) = [c for c in ax.collections if isinstance(c, PolyCollection)]
        heights = band.get_paths()[0].vertices[:, 1]
        np.testing.assert_allclose(heights.max(), loss[1, 0])
        np.testing.assert_allclose(heights.min(), loss[9, 1])
        assert ax.get_yscale() == "log"

    def test_one_curve_for_each_value_of_hue(self):
        dataset = curves(np.ones((2, 3, 4)), rate=[0.1, 1.0], seed=range(3))
        ax = plot.learning_curves(dataset.assign_coords(step=range(4)), hue="rate")
        texts = [text.get_text() for text in ax.get_legend().get_texts()]
        assert texts == ["rate = 0.1", "rate = 1"]
        one, two = ax.get_lines()
        assert one.get_color() != two.get_color()
        assert one.get_linestyle() != two.get_linestyle()

    def test_a_cross_where_the_median_run_diverges(self):
        dataset = curves([[1.0, 2.0, INF, INF]] * 3, seed=range(3))
        ax = plot.learning_curves(dataset.assign_coords(step=[0, 10, 20, 30]))
        line, cross = ax.get_lines()
        assert line.get_xdata().tolist() == [0, 10]
        assert cross.get_marker() == "x"
        assert (cross.get_xdata(), cross.get_ydata()) == ([10], [2.0])

    def test_zeros_leave_the_picture_at_its_lower_edge(self):
        dataset = curves([[1.0, 0.1, 0.0]], seed=[0]).assign_coords(step=range(3))
        ax = plot.learning_curves(dataset)
        low, high = ax.get_ylim()
        assert 0 < ax.get_lines()[0].get_ydata()[-1] < low < 0.1
        assert high > 1.0

    def test_nothing_but_zeros_or_divergence(self):
        for value in (0.0, INF):
            dataset = curves([[value, value]], seed=[0]).assign_coords(step=[0, 1])
            assert_drawn(plot.learning_curves(dataset))

    def test_any_variable_along_step(self):
        dataset = curves([[3.0, 2.0]], seed=[0]).assign_coords(step=[0, 1])
        ax = plot.learning_curves(
            dataset.rename(loss="clip_grad_norm"), variable="clip_grad_norm"
        )
        assert ax.get_ylabel() == "clip grad norm"


class TestStableFraction:
    dataset = runs([[1.0, INF], [INF, INF]], seed=[0, 1], rate=[0.1, 1.0])

    def test_fraction_that_does_not_diverge(self):
        ax = plot.stable_fraction(self.dataset, x="rate")
        assert ax.get_lines()[0].get_ydata().tolist() == [0.5, 0.0]
        assert "diverge" in ax.get_ylabel()

    def test_fraction_that_ends_at_the_target(self):
        ax = plot.stable_fraction(self.dataset, x="rate", target=0.5)
        assert ax.get_lines()[0].get_ydata().tolist() == [0.0, 0.0]
        assert "0.5" in ax.get_ylabel()

    def test_band_is_wilsons_interval(self):
        stable = runs(np.ones((8, 2)), seed=range(8), rate=[0.1, 1.0])
        (band,) = plot.stable_fraction(stable, x="rate").collections
        heights = band.get_paths()[0].vertices[:, 1]
        # Wilson: at a share of 1 the lower end is n / (n + z^2).
        np.testing.assert_allclose(heights.min(), 8 / (8 + 1.959964**2), rtol=1e-6)
        assert heights.max() == 1.0

    def test_lines_by_name(self):
        two = xr.concat(
            [self.dataset] * 2, xr.Variable("treatment", ["baseline", "both"])
        )
        ax = plot.stable_fraction(two, x="rate", hue="treatment")
        assert [line.get_label() for line in ax.get_lines()] == ["baseline", "both"]


class TestGradientNorms:
    norms = np.array([1.0, 2.0, 8.0, NAN, 4.0])

    def test_history_threshold_and_share(self):
        ax = plot.gradient_norms(self.norms, max_norm=3.0)
        history, infinite, threshold, clipped = ax.get_lines()
        np.testing.assert_array_equal(history.get_ydata(), self.norms)
        assert infinite.get_xdata().tolist() == [3]
        assert set(threshold.get_ydata()) == {3.0}
        assert clipped.get_xydata().tolist() == [[2, 8], [4, 4]]
        assert threshold.get_label() == "max_norm 3 clips 40.00%"
        assert (ax.get_yscale(), ax.get_ylabel()) == ("log", "gradient norm")

    def test_distribution_counts_every_finite_step(self):
        (side,) = plot.gradient_norms(self.norms).child_axes
        assert sum(bar.get_width() for bar in side.patches) == 4

    def test_thresholds_of_each_step_and_a_variable_of_a_dataset(self):
        norms = xr.DataArray(self.norms, {"step": np.arange(5) * 10}, "step")
        ax = plot.gradient_norms(norms, max_norm=np.arange(5.0))
        assert ax.get_lines()[0].get_xdata()[-1] == 40
        assert ax.get_lines()[-1].get_xdata().tolist() == [0, 10, 20]

    def test_nothing_finite(self):
        for value in (NAN, 0.0):
            assert_drawn(plot.gradient_norms(np.full(3, value)))

    def test_one_run_at_a_time(self):
        with pytest.raises(ValueError, match=r"one-dimensional, got shape \(2, 3\)"):
            plot.gradient_norms(np.ones((2, 3)))


@pytest.mark.parametrize(
    "draw, message",
    [
        (
            lambda d: plot.heatmap(d, x="rate", y="decay"),
            r"y must be a dimension of final_loss \(seed, rate\), got 'decay'",
        ),
        (
            lambda d: plot.heatmap(d, x="rate", y="seed", variable="accuracy"),
            r"one of the dataset's \(final_loss, status\), got 'accuracy'",
        ),
        (
            lambda d: plot.learning_curves(d),
            r"got 'loss'. Did you mean final_loss\?",
        ),
        (
            lambda d: plot.stable_fraction(d, x="decay"),
            r"x must be a dimension of status \(seed, rate\), got 'decay'",
        ),
    ],
)
def test_what_the_dataset_lacks_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw(TestStableFraction.dataset)


SEEDS = runs(np.ones((2, 3, 4)), max_norm=[1.0, 2.0], rate=[1, 2, 3], seed=range(4))
SCORES = SEEDS.assign(convergence_score=-SEEDS.final_loss)
RECORDED = curves(np.ones((3, 4, 2)), rate=[1, 2, 3], seed=range(4)).assign_coords(
    step=[0, 1]
)


@pytest.mark.parametrize(
    "draw, title",
    [
        (
            lambda: plot.heatmap(SEEDS, x="rate", y="max_norm"),
            "median over seed (4)",
        ),
        (
            lambda: plot.heatmap(SEEDS, x="rate", y="seed"),
            "median over max_norm (2)",
        ),
        (lambda: plot.heatmap(SEEDS.isel(seed=[0]), x="rate", y="max_norm"), ""),
        (
            lambda: plot.stable_fraction(SEEDS, x="rate"),
            "pooled over max_norm (2), seed (4)",
        ),
        (
            lambda: plot.stable_fraction(SEEDS, x="rate", hue="max_norm"),
            "pooled over seed (4)",
        ),
        (
            lambda: plot.rate_ranges(SEEDS, x="rate", y="max_norm"),
            "pooled over seed (4)",
        ),
        (
            lambda: plot.rate_ranges(SEEDS, x="rate"),
            "pooled over max_norm (2), seed (4)",
        ),
        (
            lambda: plot.learning_curves(RECORDED, hue="rate"),
            "median and 80% band over seed (4)",
        ),
        (
            lambda: plot.trainability_map(SCORES, x="rate", y="max_norm"),
            "median run over seed (4)",
        ),
    ],
)
def test_title_names_the_dimensions_that_are_pooled(draw, title):
    ax = draw()
    assert ax.get_title() == title
    assert_drawn(ax)


@pytest.mark.parametrize("order", [[INF, 1.0, 0.1], [0.1, INF, 1.0], [1.0, INF]])
def test_an_infinite_threshold_stands_at_the_same_end_in_any_order(order):
    loss = np.where(np.isinf(order), 3.0, order)[:, None] * np.ones(2)
    data = runs(loss, max_norm=order, rate=[1.0, 2.0])
    data["convergence_score"] = -data.final_loss
    ordered = sorted(order)
    expected = [{0.1: 0.1, 1.0: 1.0}.get(value, 3.0) for value in ordered]

    mesh = meshes(plot.heatmap(data, x="rate", y="max_norm"))[0].get_array()
    assert mesh[:, 0].compressed().tolist() == expected
    mesh = meshes(plot.heatmap(data, x="max_norm", y="rate"))[0].get_array()
    assert mesh[0].compressed().tolist() == expected
    (mesh,) = meshes(plot.trainability_map(data, x="max_norm", y="rate"))
    ranks = mesh.get_array()[0].compressed()
    assert np.all(np.diff(ranks) > 0)  # from -0.1, converged fast, to -3
    (line, *_) = plot.stable_fraction(data, x="max_norm", target=2.0).get_lines()
    assert line.get_ydata().tolist() == [*[1.0] * (len(order) - 1), 0.0]
    assert np.all(np.diff(line.get_xdata()) > 0)
    ax = plot.rate_ranges(data, x="rate", y="max_norm")
    rows = dict(
        zip(ax.get_yticks(), [t.get_text() for t in ax.get_yticklabels()], strict=True)
    )
    texts = [f"{value:g}".replace("inf", "∞") for value in ordered]
    assert [rows[height] for height in sorted(rows)] == texts


def test_draws_into_the_axes_given():
    left, right = plot.panels(2)
    assert plot.stable_fraction(TestStableFraction.dataset, x="rate", ax=right) is right
    assert right.get_lines()
    assert not left.get_lines()


def test_pyplot_knows_nothing_of_the_figures():
    assert_drawn(plot.stable_fraction(TestStableFraction.dataset, x="rate"))
    assert pyplot.get_fignums() == []


class TestSchedules:
    def test_curves_are_the_values_with_their_bounds(self):
        named = {
            "linear": stabjax.linear_schedule(1.0, 0.0, 50),
            "wsd": stabjax.wsd_schedule(0.5, 10, 30, 10),
        }
        ax = plot.schedules(named, 50)
        for line, (name, schedule) in zip(ax.get_lines(), named.items(), strict=True):
            assert line.get_xdata().tolist() == list(range(50))
            expected = [schedule(count) for count in range(50)]
            np.testing.assert_allclose(line.get_ydata(), expected, 1e-6, 1e-7)
            bound = stabjax.schedule_bound(schedule, 50).best_value * 50**0.5
            assert line.get_label() == f"{name}: {bound:.3g}"
        plain = plot.schedules(named, 50, bound=False)
        assert [line.get_label() for line in plain.get_lines()] == list(named)

    def test_a_long_schedule_is_drawn_with_fewer_points(self):
        constant = {"constant": stabjax.constant_schedule(0.1)}
        (line,) = plot.schedules(constant, 100_000, bound=False).get_lines()
        x = line.get_xdata()
        assert len(x) == 2000 and x[0] == 0 and x[-1] == 99_999

    def test_text(self):
        ramp = stabjax.linear_schedule(1.0, 0.0, 16)
        text = plot.schedule_text(ramp, 16, width=8, height=2).splitlines()
        # Means of two steps each, 31/32, 27/32 ... of 16 eighths, to the even one.
        assert text[0].split("|")[1].strip() == "█▆▄▂"
        assert text[1].split("|")[1].strip() == "█████▆▄▂"
        assert text[0].split("|")[0].strip() == "1"
        assert text[-1].split() == ["0", "16"]
        flat = plot.schedule_text(stabjax.constant_schedule(0.0), 5)
        assert "█" not in flat
