"""Datasets to draw, and what to look for in the Axes."""

import io

import numpy as np
import xarray as xr
from matplotlib.collections import QuadMesh  # noqa: TID251


def runs(final_loss, **coords):
    """A dataset as `sweep` returns it, of one final loss for each run."""
    final_loss = np.asarray(final_loss, float)
    status = np.where(np.isnan(final_loss), -1, np.isinf(final_loss)).astype(np.int8)
    dims = list(coords)
    variables = {
        "final_loss": (dims, final_loss, {"long_name": "final loss"}),
        "status": (dims, status),
    }
    return xr.Dataset(variables, coords)


def curves(loss, **coords):
    return xr.Dataset({"loss": ([*coords, "step"], np.asarray(loss, float))}, coords)


def meshes(ax):
    return [c for c in ax.collections if isinstance(c, QuadMesh)]


def assert_drawn(ax):
    """It can be written as a picture; warnings are errors."""
    file = io.BytesIO()
    ax.figure.savefig(file, dpi=50)
    assert file.getvalue().startswith(b"\x89PNG")
