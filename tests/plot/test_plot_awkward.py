"""Data that pictures tend to stumble over: single values, words, holes, too many."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection  # noqa: TID251
from pictures import assert_drawn, curves, meshes, runs

from stabjax import plot
from stabjax.plot import samples

INF, NAN = np.inf, np.nan
RATES = [0.01, 0.1, 1.0]


def ticks(labels):
    return [label.get_text() for label in labels]


class TestHeatmap:
    @pytest.mark.parametrize(
        "values, shown",
        [
            ([0.3], ["0.3"]),
            ([INF], ["∞"]),
            ([2.0, INF], ["2", "∞"]),
            ([False, True], ["False", "True"]),
            (["None", "linear"], ["None", "linear"]),
            ([3.0, 1.0], ["3", "1"]),
        ],
    )
    @pytest.mark.slow
    def test_values_that_make_no_scale_stand_side_by_side(self, values, shown):
        data = runs(np.ones((len(values), 3)), max_norm=values, rate=RATES)
        ax = plot.heatmap(data, x="rate", y="max_norm")
        assert ticks(ax.get_yticklabels()) == shown
        assert_drawn(ax)

    def test_long_words_are_inclined_and_the_legend_makes_room(self):
        words = ["baseline", "clipping by global norm", "a schedule", "both of them"]
        data = runs(np.ones((4, 3)), treatment=words, rate=RATES)
        ax = plot.heatmap(data, x="treatment", y="rate")
        assert {label.get_rotation() for label in ax.get_xticklabels()} == {25}
        ax.figure.draw_without_rendering()
        below = ax.get_legend().get_window_extent().y1
        assert below < ax.xaxis.label.get_window_extent().y0

    def test_no_border_towards_what_was_not_run(self):
        data = runs([[1.0, INF, NAN]], max_norm=[1.0], rate=RATES)
        ax = plot.heatmap(data, x="rate", y="max_norm")
        (border,) = [c for c in ax.collections if type(c) is LineCollection]
        assert len(border.get_segments()) == 1
        assert ticks(ax.get_legend().get_texts()) == ["diverged", "not run", "smallest"]

    @pytest.mark.parametrize("value", [INF, NAN])
    def test_no_color_bar_for_nothing(self, value):
        data = runs(np.full((2, 3), value), max_norm=[1.0, 2.0], rate=RATES)
        ax = plot.heatmap(data, x="rate", y="max_norm")
        assert ax.figure.axes == [ax]
        assert_drawn(ax)

    def test_a_space_that_is_no_grid_is_points(self):
        draw = np.random.default_rng(0)
        rate = 10 ** draw.uniform(-3, 1, 40)
        loss = np.stack([rate, np.where(rate > 1, INF, rate)], axis=-1)
        data = runs(loss, trial=range(40), seed=[0, 1]).assign_coords(
            rate=("trial", rate), width=("trial", draw.uniform(1, 9, 40))
        )
        ax = plot.heatmap(data, x="rate", y="width")
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
        stable, diverged = [c for c in ax.collections if isinstance(c, PathCollection)]
        np.testing.assert_allclose(stable.get_offsets()[:, 0], rate[rate <= 1])
        np.testing.assert_allclose(stable.get_array(), rate[rate <= 1])
        assert len(diverged.get_offsets()) == (rate > 1).sum()
        (star,) = ax.get_lines()
        assert star.get_xdata() == rate.min()
        assert not meshes(ax)
        assert_drawn(ax)


class TestSamples:
    """Random samples are binned along the axis."""

    rate = 10 ** np.random.default_rng(1).uniform(-3, 1, 100)
    dataset = runs(
        np.stack([rate, np.where(rate > 1, INF, 2 * rate)], axis=-1),
        trial=range(100),
        seed=[0, 1],
    ).assign_coords(
        rate=("trial", rate), kind=("trial", np.where(np.arange(100) % 2, "a", "b"))
    )

    @pytest.mark.parametrize("hue", [None, "kind"])
    def test_medians_of_bins(self, hue):
        data = self.dataset if hue else self.dataset.drop_vars("kind")
        ax = plot.sensitivity(data, x="rate", hue=hue)
        assert ax.get_xscale() == "log"
        line = ax.get_lines()[0]
        assert len(line.get_xdata()) == 10
        members = np.sort(self.rate)[:10]
        np.testing.assert_allclose(line.get_xdata()[0], np.median(members))
        if hue is None:
            assert members[0] < line.get_ydata()[0] < 2 * members[-1]
            assert ax.get_title() == "median and 80% band over trial (10), seed (2)"
        else:
            labels = [text.get_text() for text in ax.get_legend().get_texts()]
            assert labels == ["a", "b"]
        assert_drawn(ax)

    def test_fractions_count_each_run_once(self):
        data = self.dataset.drop_vars("kind")
        ax = plot.stable_fraction(data, x="rate")
        fractions = ax.get_lines()[0].get_ydata()
        np.testing.assert_allclose(fractions.mean(), (data.status == 0).mean())
        few = data.assign_coords(rate=("trial", np.arange(100) % 3 + 1.0))
        ax = plot.stable_fraction(few.isel(trial=slice(50)), x="rate")
        assert ax.get_lines()[0].get_xdata().tolist() == [1, 2, 3]

    def test_a_category_is_never_pooled(self):
        ax = plot.stable_fraction(self.dataset, x="rate")
        assert [line.get_label() for line in ax.get_lines()] == ["a", "b"]

    def test_a_switched_off_threshold_is_a_bin(self):
        rate = np.where(np.arange(100) < 20, INF, self.rate)
        data = self.dataset.drop_vars("kind").assign_coords(rate=("trial", rate))
        ax = plot.sensitivity(data, x="rate")
        assert len(ax.get_xticks()) > 1 and r"$\infty$" in [
            text.get_text() for text in ax.get_xticklabels()
        ]
        assert_drawn(ax)

    def test_values_that_are_not_finite_have_their_own_bins(self):
        values = self.rate.copy()
        values[:5], values[5:15], values[15:35] = -INF, INF, NAN
        data = self.dataset.drop_vars("kind").assign_coords(rate=("trial", values))
        found = samples.binned(data, "rate")
        assert np.diff(found.rate[:-1]).min() > 0
        assert (
            found.rate[0] == -INF and found.rate[-2] == INF and found.rate[-1].isnull()
        )
        held = (found.status >= 0).isel(seed=0).sum("trial").values
        assert [held[0], held[-2], held[-1]] == [5, 10, 20] and held.sum() == 100
        for place in range(1, len(held) - 2):
            mine = found.final_loss.isel(rate=place, seed=0).dropna("trial")
            rates = self.rate[np.isin(data.final_loss[:, 0], mine)]
            if (rates < 1).all():
                assert np.median(rates) == found.rate[place]


class TestEvaluations:
    """Curves along `evaluated_at`, as `sweep` returns them."""

    values = np.array([[[0.1, 0.5, 0.4], [0.2, 0.6, NAN]], [[0.3, 0.9, 0.8]] * 2])

    def dataset(self, better="higher"):
        data = runs(np.ones((2, 2)), rate=[0.1, 1.0], seed=[0, 1])
        dims = ("rate", "seed", "evaluated_at")
        return data.assign(
            test_curve=(dims, self.values, {"better": better}),
            stopped_at=(("rate", "seed"), [[30, 20], [30, 30]]),
        ).assign_coords(evaluated_at=[10, 20, 30])

    def test_the_best_run_is_marked_and_a_stopped_run_keeps_its_value(self):
        ax = plot.learning_curves(self.dataset(), variable="test_curve", hue="rate")
        low, high, best, star = ax.get_lines()
        assert (ax.get_yscale(), ax.get_xlabel()) == ("linear", "updates")
        assert low.get_xdata().tolist() == [10, 20, 30]
        assert low.get_ydata()[2] in (0.4, 0.6)  # the median of 0.4 and 0.6
        assert high.get_ydata().tolist() == [0.3, 0.9, 0.8]
        assert best.get_ydata().tolist() == [0.3, 0.9, 0.8]
        assert (star.get_xdata(), star.get_ydata()) == (20, 0.9)
        assert "best run" in [t.get_text() for t in ax.get_legend().get_texts()]
        assert_drawn(ax)

    def test_of_a_loss_the_smallest_is_best_and_diverged_runs_are_not(self):
        data = self.dataset("lower")
        data["status"][0, 0] = 1
        ax = plot.learning_curves(data, variable="test_curve")
        assert ax.get_lines()[1].get_ydata().tolist() == [0.2, 0.6, 0.6]
        assert ax.get_yscale() == "log"


class TestLearningCurves:
    def draw(self, loss, hue=None, **coords):
        data = curves(loss, **coords)
        steps = np.arange(data.sizes["step"])
        return plot.learning_curves(data.assign_coords(step=steps), hue=hue)

    def test_what_was_not_run_is_no_divergence(self):
        ax = self.draw([[1.0, 0.5], [NAN, NAN], [3.0, 1.5]], seed=range(3))
        (line,) = ax.get_lines()  # and no cross
        assert line.get_ydata().tolist() == [1.0, 0.5]  # the lower of two
        assert not self.draw([[NAN, NAN]], seed=[0]).get_lines()[0].get_ydata().size

    def test_metrics_are_no_numbers_after_a_divergence(self):
        ax = self.draw([[1.0, 2.0, NAN], [1.0, 2.0, NAN], [1, 2, 3]], seed=range(3))
        line, cross = ax.get_lines()
        assert line.get_ydata().tolist() == [1.0, 2.0]
        assert cross.get_xdata() == [1]

    def test_what_diverges_does_not_hide_the_others(self):
        ax = self.draw([[1.0, 0.1, 1e-3], [1.0, 1e30, INF]], hue="rate", rate=[1, 2])
        low, high = ax.get_ylim()
        assert low < 1e-3 and 1 < high < 10
        _, _, cross = ax.get_lines()
        assert cross.get_ydata() == [high]  # where it leaves the picture

    def test_a_metric_that_is_not_known_at_first(self):
        ax = self.draw([[NAN, NAN, 2.0, 3.0]], seed=[0])
        (line,) = ax.get_lines()
        assert line.get_xydata().tolist() == [[2, 2], [3, 3]]

    def test_at_once(self):
        ax = self.draw([[INF, INF]], seed=[0])
        _, cross = ax.get_lines()
        assert cross.get_transform() == ax.transAxes
        assert_drawn(ax)

    def test_a_single_step_is_a_point(self):
        assert self.draw([[1.0]], seed=[0]).get_lines()[0].get_marker() == "."

    def test_labels_that_are_alike_are_two_curves(self):
        ax = self.draw([[1.0, 1.0], [2.0, 2.0]], hue="rate", rate=[0.10001, 0.10002])
        assert len(ax.get_lines()) == 2

    def test_many_numbers_are_shades(self):
        values = [*range(1, 12), INF]
        ax = self.draw(np.ones((12, 3)), hue="rate", rate=values)
        assert len({line.get_color() for line in ax.get_lines()}) == 12
        shown = ticks(ax.get_legend().get_texts())
        assert shown[0] == "rate = 1" and shown[-1] == "rate = ∞" and len(shown) == 5
        assert not ax.collections

    def test_many_words_have_each_a_style(self):
        words = [f"method {number}" for number in range(20)]
        ax = self.draw(np.ones((20, 3)), hue="method", method=words)
        lines = ax.get_lines()
        found = {(line.get_color(), str(line._dash_pattern)) for line in lines}
        assert len(found) == 20
        assert ticks(ax.get_legend().get_texts()) == words


class TestStableFraction:
    def test_what_was_not_run_counts_for_nothing(self):
        data = runs([[1.0, INF, NAN], [1.0, NAN, NAN]], seed=[0, 1], rate=RATES)
        for target in (None, 2.0):
            ax = plot.stable_fraction(data, x="rate", target=target)
            assert ax.get_lines()[0].get_ydata()[:2].tolist() == [1.0, 0.0]
            assert np.isnan(ax.get_lines()[0].get_ydata()[2])

    def test_words_are_points(self):
        data = runs([[1.0], [INF]], treatment=["baseline", "both"], seed=[0])
        ax = plot.stable_fraction(data, x="treatment")
        assert ax.get_lines()[0].get_marker() == "o"
        assert ticks(ax.get_xticklabels()) == ["baseline", "both"]


class TestGradientNorms:
    def test_a_threshold_has_room_unless_it_is_far(self):
        norms = np.ones(5)
        assert plot.gradient_norms(norms, max_norm=20.0).get_ylim()[1] > 20
        for far in (1e4, INF):
            assert plot.gradient_norms(norms, max_norm=far).get_ylim()[1] < 2
        assert_drawn(plot.gradient_norms(norms[:1], max_norm=0.01))

    def test_less_than_a_decade_has_plain_numbers(self):
        ax = plot.gradient_norms(np.array([0.5, 1.0, 2.0]))
        ax.figure.draw_without_rendering()
        shown = [text for text in ticks(ax.get_yticklabels()) if text]
        assert {"0.5", "1", "2"} <= set(shown)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_schedules_are_seen_against_zero(value):
    ax = plot.schedules({"constant": lambda count: value}, 1, bound=False)
    low, high = ax.get_ylim()
    assert low < 0 and value < high
    assert ax.get_lines()[0].get_marker() == "."


def test_units_and_long_names_are_labels():
    data = runs([[1.0, 2.0]], max_norm=["fixed"], rate=[1.0, 2.0])
    data["rate"].attrs = {"long_name": "learning rate", "units": "1/step"}
    assert plot.rate_ranges(data, x="rate").get_xlabel() == "learning rate (1/step)"
