"""Datasets of runs with a known truth."""

import numpy as np
import xarray as xr

RATES = np.logspace(-2, 0, 9)


def dataset(losses, **coords):
    """Runs with these final losses: infinite if diverged, NaN if not run."""
    losses = np.asarray(losses, float)
    status = np.where(np.isnan(losses), -1, np.isinf(losses)).astype(np.int8)
    variables = {"final_loss": ([*coords], losses), "status": ([*coords], status)}
    return xr.Dataset(variables, coords)


def valley(best, seeds=8, noise=0.05, rates=RATES, seed=0):
    """Losses that are a parabola in the logarithm of the rate, with a level a seed."""
    rng = np.random.default_rng(seed)
    distance = np.log(rates / best)
    level = rng.normal(size=seeds)
    own = noise * rng.normal(size=(len(rates), seeds))
    losses = distance[:, None] ** 2 / 2 + level + own
    return dataset(losses, rate=rates, seed=np.arange(seeds))
