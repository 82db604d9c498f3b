"""`stabjax plot`: which picture, of what, in which format."""

import numpy as np
import pytest
import xarray as xr

import stabjax
from stabjax.cli import main

DIMS = ("rate", "max_norm", "schedule", "seed")
COORDS = {
    "rate": [0.01, 0.1, 1.0],
    "max_norm": [1.0, np.inf],
    "schedule": ["cosine", "linear"],
    "seed": [0, 1],
}
ONES = np.ones((3, 2, 2, 2))


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws a dataset by the command, and returns the plot's name and arguments."""
    calls = []
    for name in (
        "heatmap",
        "learning_curves",
        "rate_ranges",
        "sensitivity",
        "stable_fraction",
    ):
        draw = getattr(stabjax.plot, name)

        def wrapped(runs, *, _draw=draw, _name=name, **given):
            calls.append((_name, {k: v for k, v in given.items() if v is not None}))
            return _draw(runs, **given)

        monkeypatch.setattr(stabjax.plot, name, wrapped)

    def draw(*options, **select):
        variables = {
            "final_loss": (DIMS, ONES),
            "accuracy": (DIMS, ONES / 2),
            "status": (DIMS, np.zeros_like(ONES, np.int8)),
            "loss": ((*DIMS, "step"), np.ones((*ONES.shape, 2))),
        }
        runs = xr.Dataset(variables, {**COORDS, "step": [0, 1]}).sel(**select)
        runs.to_netcdf(tmp_path / "runs.nc", engine="scipy")
        out = str(tmp_path / "picture.png")
        assert main(["plot", str(tmp_path / "runs.nc"), "--out", out, *options]) == 0
        return calls[0]

    return draw


@pytest.mark.parametrize(
    ("options", "select", "name", "expected"),
    [
        ("", {}, "heatmap", {"x": "rate", "y": "max_norm"}),
        ("--x max_norm", {}, "heatmap", {"x": "max_norm", "y": "rate"}),
        (
            "--hue schedule",
            {},
            "heatmap",
            {"x": "rate", "y": "max_norm", "facet": "schedule"},
        ),
        ("--hue max_norm", {}, "sensitivity", {"x": "rate", "hue": "max_norm"}),
        (
            "--variable accuracy --maximize --target 0.4",
            {"max_norm": 1.0},
            "sensitivity",
            {"x": "rate", "variable": "accuracy", "maximize": True, "target": 0.4},
        ),
        ("", {"max_norm": 1.0}, "sensitivity", {"x": "rate"}),
        ("--variable status", {}, "stable_fraction", {"x": "rate"}),
        (
            "--kind stable --target-loss 2",
            {},
            "stable_fraction",
            {"x": "rate", "target": 2.0},
        ),
        ("--kind ranges", {}, "rate_ranges", {"x": "rate"}),
        (
            "--kind ranges --y max_norm",
            {},
            "rate_ranges",
            {"x": "rate", "y": "max_norm"},
        ),
        ("--variable loss --hue rate", {}, "learning_curves", {"hue": "rate"}),
        ("--kind lines --x max_norm", {}, "sensitivity", {"x": "max_norm"}),
    ],
)
@pytest.mark.slow
def test_the_picture_follows_from_the_axes(options, select, name, expected, drawn):
    found, given = drawn(*options.split(), **select)
    assert found == name
    assert expected.items() <= given.items()
    assert given["variable"] in ("final_loss", "accuracy", "loss")


def test_a_random_sample_is_drawn_as_points(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    variables = {"final_loss": ("trial", np.ones(9))}
    coords = {name: ("trial", draw.uniform(size=9)) for name in ("rate", "decay")}
    runs = xr.Dataset(variables, {**coords, "trial": np.arange(9)})
    monkeypatch.chdir(tmp_path)
    runs.to_netcdf("runs.nc", engine="scipy")
    assert main(["plot", "runs.nc", "--out", "a.pdf"]) == 0


@pytest.mark.parametrize(
    ("suffix", "start"),
    [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")],
)
def test_formats(suffix, start, drawn, tmp_path):
    out = tmp_path / f"figure{suffix}"
    drawn("--out", str(out), max_norm=1.0)
    assert out.read_bytes().startswith(start)


def test_what_xarray_writes_by_default_is_drawn(tmp_path, monkeypatch):
    """`runs.to_netcdf("a.nc")`, by whichever engine is installed."""
    runs = xr.Dataset({"final_loss": ("rate", [1.0, 2.0])}, {"rate": [0.1, 1.0]})
    monkeypatch.chdir(tmp_path)
    runs.to_netcdf("a.nc")
    assert main(["plot", "a.nc"]) == 0
    assert (tmp_path / "sweep.png").exists()
