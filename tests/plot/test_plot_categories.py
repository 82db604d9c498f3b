"""What no picture may mislead about: words, targets, directions, ends of the grid."""

import numpy as np
import pytest
from matplotlib.collections import PolyCollection  # noqa: TID251
from pictures import assert_drawn, curves, meshes, runs

from stabjax import plot

INF, NAN = np.inf, np.nan
RATES = np.logspace(-3, 1, 5)
WORDS = {"schedule": ["cosine", "linear"], "nesterov": [False, True]}
LOSS = np.geomspace(1, 2, 40).reshape(2, 2, 5, 2) * np.array([9, 3, 1, 3, 9])[:, None]
RUNS = runs(LOSS, **WORDS, rate=RATES, seed=[0, 1])
MAPS = runs(
    np.stack([LOSS, 10 * LOSS]), max_norm=[1.0, 2.0], **WORDS, rate=RATES, seed=[0, 1]
)
RECORDED = curves(LOSS, **WORDS, rate=RATES).assign_coords(step=[0, 1])


def titles(ax):
    return [one.get_title() for one in ax.figure.axes if one.get_title()]


class TestCategories:
    """Words are lines, rows and panels; numbers are pooled, and the title says so."""

    @pytest.mark.parametrize(
        "draw",
        [
            lambda **o: plot.sensitivity(RUNS, x="rate", **o),
            lambda **o: plot.stable_fraction(RUNS, x="rate", **o),
        ],
    )
    def test_lines_and_panels(self, draw):
        ax = draw()
        pooled = [title.splitlines() for title in titles(ax)]
        assert [title[0] for title in pooled] == ["nesterov = False", "nesterov = True"]
        assert all(title[1].endswith("over seed (2)") for title in pooled)
        words = [text.get_text() for text in ax.get_legend().get_texts()]
        assert words == ["cosine", "linear"]
        other = draw(hue="nesterov")
        assert [title.splitlines()[0] for title in titles(other)] == WORDS["schedule"]
        assert len({one.get_ylim() for one in ax.figure.axes}) == 1
        assert_drawn(ax)

    def test_maps_have_panels_in_the_same_colors(self):
        ax = plot.heatmap(MAPS, x="rate", y="max_norm")
        assert titles(ax) == [
            f"{word}, nesterov = {flag}\nmedian over seed (2)"
            for word in WORDS["schedule"]
            for flag in WORDS["nesterov"]
        ]
        norms = [meshes(a)[0].norm for a in ax.figure.axes if meshes(a)]
        assert len({(norm.vmin, norm.vmax) for norm in norms}) == 1
        medians = np.median(MAPS.final_loss, axis=-1)
        assert (norms[0].vmin, norms[0].vmax) == (medians.min(), medians.max())
        assert_drawn(ax)

    def test_any_axis_has_panels(self):
        one = MAPS.isel(schedule=0, nesterov=0)
        ax = plot.heatmap(one, x="rate", y="seed", facet="max_norm")
        assert titles(ax) == ["max norm = 1", "max norm = 2"]
        with pytest.raises(ValueError, match=r"facet must be .* got 'norm'. Did you"):
            plot.heatmap(one, x="rate", y="seed", facet="norm")

    def test_curves_rows_and_scores(self):
        ax = plot.learning_curves(RECORDED)
        assert len(titles(ax)) == 2 and len(ax.get_legend().get_texts()) == 2
        ax = plot.rate_ranges(RUNS, x="rate")
        assert len(titles(ax)) == 2
        assert [t.get_text() for t in ax.get_yticklabels()] == ["cosine", "linear"]
        scored = MAPS.assign(convergence_score=-MAPS.final_loss)
        ax = plot.trainability_map(scored, x="rate", y="max_norm")
        assert len(titles(ax)) == 4
        assert_drawn(ax)

    def test_in_axes_of_the_user_words_are_pooled_and_named(self):
        (ax,) = plot.panels(1)
        assert plot.heatmap(MAPS, x="rate", y="max_norm", ax=ax) is ax
        assert ax.get_title() == "median over schedule (2), nesterov (2), seed (2)"

    def test_too_many_panels_are_refused(self):
        names = [f"method {number}" for number in range(25)]
        many = runs(np.ones((25, 2, 2)), method=names, x=[1, 2], y=[1, 2])
        with pytest.raises(ValueError, match="24 combinations of method, got 25"):
            plot.heatmap(many, x="x", y="y")


class TestDirection:
    """An accuracy: larger is better, by argument or by the dataset."""

    data = runs([[1.0], [1.0], [1.0], [INF]], rate=[0.01, 0.1, 1.0, 10.0], seed=[0])
    data = data.assign(accuracy=(data.final_loss.dims, [[0.5], [0.9], [0.2], [0.99]]))

    @pytest.mark.parametrize("said", [True, False])
    def test_of_every_plot(self, said):
        data = self.data.copy(deep=True)
        given = {"variable": "accuracy", "target": 0.5}
        if said:
            data.accuracy.attrs["better"] = "higher"
        else:
            given["maximize"] = True
        line, _, star, *_ = plot.sensitivity(data, x="rate", **given).get_lines()
        assert star.get_xydata().tolist() == [[0.1, 0.9]]
        ax = plot.stable_fraction(data, x="rate", **given)
        assert ax.get_lines()[0].get_ydata().tolist() == [1, 1, 0, 0]
        assert "end at 0.5 or above" in ax.get_ylabel()
        ax = plot.rate_ranges(data, x="rate", **given)
        (star,) = (one for one in ax.get_lines() if len(one.get_xdata()) == 1)
        assert star.get_xdata() == 0.1
        assert [text.get_text() for text in ax.texts] == [">= 2.0 decades"]
        ax = plot.heatmap(data, x="rate", y="seed", **given)
        assert ax.get_lines()[0].get_xdata() == 0.1
        line = next(c for c in ax.collections if c.get_linewidth() == 1.8)
        assert len(line.get_segments()) == 1
        texts = [text.get_text() for text in ax.get_legend().get_texts()]
        assert texts == ["diverged", "largest", "end at 0.5 or above"]


class TestSensitivity:
    def draw(self, loss, **options):
        data = runs(loss, rate=RATES, seed=range(len(loss[0])))
        return plot.sensitivity(data, x="rate", **options)

    def test_median_band_star_and_title(self):
        loss = np.array([9, 3, 1, 3, 9])[:, None] * np.linspace(0.5, 1.5, 11)
        ax = self.draw(loss)
        line, crosses, star = ax.get_lines()
        np.testing.assert_allclose(line.get_ydata(), [9, 3, 1, 3, 9])
        assert not crosses.get_xdata().size
        assert star.get_xydata().tolist() == [[0.1, 1.0]]
        (band,) = [c for c in ax.collections if isinstance(c, PolyCollection)]
        at = band.get_paths()[0].vertices
        middle = at[np.isclose(at[:, 0], 0.1), 1]
        np.testing.assert_allclose([middle.min(), middle.max()], [0.6, 1.4])
        assert ax.get_title() == "median and 80% band over seed (11)"
        assert ax.get_xscale() == "log"

    def test_a_cross_where_the_median_run_diverges(self):
        ax = self.draw([[9.0], [3.0], [1.0], [INF], [NAN]])
        _, crosses, _ = ax.get_lines()
        assert crosses.get_xdata().tolist() == [1.0]
        assert ax.get_ylim()[1] < 20
        assert_drawn(ax)

    def test_a_loss_near_divergence_does_not_squeeze_the_others(self):
        ax = self.draw([[1.0], [0.1], [0.01], [0.02], [1e9]])
        low, high = ax.get_ylim()
        assert low < 0.01 and 0.1 < high < 100

    def test_nothing_finite_and_equal_values(self):
        for value in (INF, NAN, 0.0, -1.0, 2.0):
            assert_drawn(self.draw(np.full((5, 1), value)))

    def test_switched_off_stands_apart(self):
        data = runs([[1.0], [2.0], [3.0]], max_norm=[0.1, 1.0, INF], seed=[0])
        line = plot.sensitivity(data, x="max_norm").get_lines()[0]
        assert np.isnan(line.get_ydata()[2])
        assert line.get_ydata()[3] == 3.0

    def test_target_is_in_the_legend_and_in_sight(self):
        ax = self.draw(np.array([[9.0], [3.0], [1.0], [3.0], [9.0]]), target=0.1)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0.1"]
        assert ax.get_ylim()[0] <= 0.1


@pytest.mark.parametrize("width", [3.2, 8.0])
@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plot.learning_curves(RECORDED, hue="schedule", ax=ax),
        lambda ax: plot.sensitivity(RUNS, x="rate", hue="schedule", ax=ax),
        lambda ax: plot.stable_fraction(RUNS, x="rate", hue="schedule", ax=ax),
        lambda ax: plot.rate_ranges(RUNS, x="rate", y="schedule", ax=ax),
        lambda ax: plot.heatmap(MAPS, x="rate", y="max_norm", ax=ax),
        lambda ax: plot.gradient_norms(np.ones(9), max_norm=1.0, ax=ax),
        lambda ax: plot.schedules({"one": lambda t: 1.0}, 9, ax=ax),
    ],
)
@pytest.mark.slow
def test_a_legend_is_never_over_data(draw, width):
    (ax,) = plot.panels(1, width=width)
    draw(ax)
    ax.figure.draw_without_rendering()
    legend = ax.get_legend().get_window_extent()
    assert legend.y1 < ax.get_window_extent().y0


class TestEndsOfTheGrid:
    """A range that the grid cuts off is a lower bound, whatever the grid."""

    def text(self, rates):
        rates = np.array(rates)
        loss = np.where((rates > 0.005) & (rates < 2), 1.0, INF)
        data = runs(loss[:, None] * np.ones(3), rate=rates, seed=range(3))
        (text,) = plot.rate_ranges(data, x="rate").texts
        return text.get_text()

    def test_a_wider_grid_gives_the_same_number(self):
        expected = "3.0 decades [3.0, 3.0]"
        assert self.text(np.logspace(-3, 1, 5)) == expected
        assert self.text(np.logspace(-6, 3, 10)) == expected

    @pytest.mark.parametrize("ends", [(-2, 1), (-3, 0), (-2, 0)])
    def test_a_narrower_one_says_that_it_is_a_bound(self, ends):
        rates = np.logspace(*ends, ends[1] - ends[0] + 1)
        assert self.text(rates) == ">= 3.0 decades [3.0, 3.0]"

    def test_the_interval_resamples_seeds(self):
        from stabjax._intervals import decades_that_train

        draw = np.random.default_rng(1)
        rates = np.logspace(-3, 1, 41)
        edge = draw.normal(-1.0, 0.3, 9)  # of each seed, in decades
        success = (np.log10(rates)[:, None] <= edge).astype(float)
        value, *interval = decades_that_train(success[:, :, None], rates)
        draws = draw.choice(edge, (4000, 9))
        ends = np.quantile(np.median(draws, axis=1), [0.025, 0.975]) + 3
        np.testing.assert_allclose(value, np.median(edge) + 3, atol=0.11)
        np.testing.assert_allclose(interval, ends, atol=0.15)
