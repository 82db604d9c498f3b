"""Which rates train, as rows; and maps of the border of trainability."""

import numpy as np
import pytest
import xarray as xr
from matplotlib import colormaps  # noqa: TID251
from matplotlib.patches import StepPatch  # noqa: TID251
from pictures import assert_drawn, meshes, runs

from stabjax import plot

INF, NAN = np.inf, np.nan
RATES = np.logspace(-2, 2, 5)


class TestRateRanges:
    # Of treatment "a", both seeds, one and none are stable as the rate grows: three
    # rates train. The rates that train of "b" have a gap.
    dataset = runs(
        [
            [[3.0, 2.0, 1.0, INF, INF], [3.0, 2.0, INF, INF, INF]],
            [[0.5, INF, 0.2, 0.1, INF], [0.5, INF, 0.2, 0.1, INF]],
        ],
        treatment=["a", "b"],
        seed=[0, 1],
        rate=RATES,
    )

    def draw(self, dataset=None, **options):
        dataset = self.dataset if dataset is None else dataset
        return plot.rate_ranges(dataset, x="rate", **options)

    def texts(self, ax):
        return [text.get_text() for text in ax.texts]

    def rows(self, ax):
        """For each row the shares of all runs, and those of the rates that train."""
        steps = [p for p in ax.patches if isinstance(p, StepPatch)]
        heights = [(s.get_data().values - s.get_data().baseline) / 0.74 for s in steps]
        return np.round(heights, 6).reshape(-1, 2, len(heights[0])).tolist()

    def test_height_is_the_share_and_half_is_enough(self):
        ax = self.draw(y="treatment")
        a, b = self.rows(ax)
        assert a == [[1, 1, 0.5, 0, 0], [1, 1, 0.5, 0, 0]]
        assert b == [[1, 0, 1, 1, 0], [1, 0, 1, 1, 0]]
        both = [">= 3.0 decades [2.0, 3.0]", ">= 3.0 decades [3.0, 3.0]"]
        assert self.texts(ax) == both
        edges = ax.patches[0].get_data().edges
        np.testing.assert_allclose(np.log10(edges), np.arange(-2.5, 3))
        assert (ax.get_xscale(), ax.get_xlabel()) == ("log", "rate")

    def test_fewer_than_half_are_pale(self):
        three = xr.concat([self.dataset, self.dataset.isel(seed=[1])], "seed")
        ax = self.draw(three, y="treatment")
        everything, trains = self.rows(ax)[0]
        assert everything == [1, 1, round(1 / 3, 6), 0, 0]
        assert trains == [1, 1, 0, 0, 0]
        assert self.texts(ax)[0] == ">= 2.0 decades [2.0, 3.0]"

    def test_target(self):
        ax = self.draw(y="treatment", target=0.3)
        assert self.texts(ax) == ["none", "2.0 decades [2.0, 2.0]"]
        assert "at 0.3 or below" in ax.get_legend().get_texts()[0].get_text()

    def test_width_is_that_of_the_study(self):
        from stabjax.study.measure import _width

        reached = (self.dataset.final_loss <= 2.0).rename(rate="peak_value")
        widths = [f"{width:.1f} decades" for width in _width(reached).to_numpy()]
        texts = self.texts(self.draw(y="treatment", target=2.0))
        assert [text.removeprefix(">= ").split(" [")[0] for text in texts] == widths

    def test_star_is_on_the_smallest_median_loss(self):
        stars = [line.get_xydata().tolist() for line in self.draw(y="treatment").lines]
        stars = [points[0] for points in stars if len(points) == 1]
        assert stars == [[1.0, 1], [10.0, 0]]  # names go downwards

    def test_numbers_go_upwards_and_infinity_has_its_sign(self):
        numbers = self.dataset.assign_coords(treatment=[0.5, INF])
        ticks = self.draw(numbers, y="treatment").get_yticklabels()
        assert [t.get_text() for t in ticks] == ["0.5", "∞"]
        several = xr.concat([numbers, numbers.isel(treatment=[0])], "treatment")
        several = several.assign_coords(treatment=[0.5, 1.0, INF])
        ax = self.draw(several, y="treatment")
        assert list(ax.get_yticks()) == [0, 1, 2]

    def test_order_of_the_rates_does_not_matter(self):
        turned = self.dataset.isel(rate=[3, 1, 0, 4, 2])
        assert self.rows(self.draw(turned, y="treatment")) == self.rows(
            self.draw(y="treatment")
        )

    def test_what_was_not_run_counts_for_nothing(self):
        half = self.dataset.where(self.dataset.seed == 1)
        half["status"] = half.status.fillna(-1)
        assert self.rows(self.draw(half, y="treatment"))[0][0] == [1, 1, 0, 0, 0]
        nothing = self.draw(self.dataset.where(self.dataset.seed > 1))
        assert self.texts(nothing) == ["none", "none"]

    @pytest.mark.parametrize(
        "dataset, text",
        [
            (dataset.isel(rate=[0]), ["one rate"] * 2),
            (dataset.isel(rate=[4]), ["none"] * 2),
            (dataset.isel(treatment=0, seed=0), [">= 3.0 decades"]),
            (dataset.isel(treatment=0, seed=[0]), [">= 3.0 decades"]),
            (dataset.isel(treatment=1, rate=[1, 2, 3, 4]), ["2.0 decades [2.0, 2.0]"]),
        ],
    )
    def test_is_drawn(self, dataset, text):
        ax = self.draw(dataset)
        assert self.texts(ax) == text
        assert_drawn(ax)

    def test_rates_are_positive_and_finite(self):
        for values, came in (([0.0, 1.0], "0, 1"), ([1.0, INF], "1, ∞")):
            dataset = runs([1.0, 1.0], rate=values)
            with pytest.raises(ValueError, match=f"positive and finite.*rate = {came}"):
                self.draw(dataset)
        with pytest.raises(ValueError, match="y must be a dimension of .*'decay'"):
            self.draw(y="decay")


def scores(values, **coords):
    return xr.Dataset({"convergence_score": ([*coords], np.array(values))}, coords)


class TestTrainabilityMap:
    dataset = scores([[-3.0, -2.0, -1.0], [3.0, 2.0, 1.0]], y=[0.1, 10.0], x=[1, 2, 3])

    def mesh(self, dataset=None, **options):
        dataset = self.dataset if dataset is None else dataset
        ax = plot.trainability_map(dataset, x="x", y="y", **options)
        (mesh,) = meshes(ax)
        return ax, mesh

    def test_ranks_from_fast_to_slow_and_from_late_to_early(self):
        _, mesh = self.mesh()
        end = 255 / 256
        expected = [[end, end / 2, 0.0], [1.0, 1 + end / 2, 1 + end]]
        np.testing.assert_allclose(mesh.get_array(), expected)

    def test_colors_are_those_of_the_paper(self):
        _, mesh = self.mesh()
        mesh.update_scalarmappable()
        colors = mesh.get_facecolors().reshape(2, 3, 4)
        # `Spectral` over [-1, 1]: 1 to 0.25 converged, from slow; -1 to -0.25 diverged.
        for row, sign in ((0, 1), (1, -1)):
            for column, shade in enumerate((1.0, 0.625, 0.25)):
                expected = colormaps["Spectral"]((1 + sign * shade) / 2)
                np.testing.assert_allclose(colors[row, column], expected, atol=0.03)

    def test_ranks_use_all_shades_equally(self):
        skewed = -(10.0 ** np.arange(16).reshape(4, 4))
        _, mesh = self.mesh(scores(skewed, y=range(4), x=range(4)))
        np.testing.assert_allclose(np.diff(mesh.get_array().ravel()), 255 / 256 / 15)

    def test_axes_and_words(self):
        ax, _ = self.mesh()
        assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "log")
        bar = ax.figure.axes[-1]
        words = [text.get_text() for text in bar.get_yticklabels()]
        assert words == ["fast", "converged", "slow", "late", "diverged", "early"]

    def test_seeds_are_pooled_and_what_was_not_run_is_white(self):
        seeds = scores(
            [[[-3.0, 1.0, -2.0], [NAN, NAN, NAN]]], y=[1.0], x=[1.0, 2.0], seed=range(3)
        )
        _, mesh = self.mesh(seeds)
        assert mesh.get_array().mask.tolist() == [[False, True]]
        assert mesh.get_array()[0, 0] == 0.0  # the median run converged

    @pytest.mark.parametrize(
        "values", [np.full((2, 2), -1.0), np.zeros((2, 2)), np.full((2, 2), NAN)]
    )
    def test_all_of_one_kind(self, values):
        ax, _ = self.mesh(scores(values, y=["one", "two"], x=[1.0, INF]))
        assert_drawn(ax)

    def test_needs_a_score(self):
        with pytest.raises(ValueError, match="got 'convergence_score'"):
            self.mesh(runs([[1.0]], y=[1.0], x=[1.0]))
