"""The effect of a clipping threshold on recorded runs."""

import numpy as np
import xarray as xr

from stabjax._clipping import ClippingEffect, clipping_effect


def clipping(
    runs: xr.Dataset, name: str = "clip", *, max_norm: float | None = None
) -> ClippingEffect:
    """Reports the effect of a threshold, based on the metrics of a sweep.

    See `stabjax.clipping_effect` for the result. The sweep has to record gradient
    norms: wrap clipping in `with_metrics(..., name="clip")` and pass `record_every`.
    With `per_leaf=True`, the result also names the parameter with the largest norm.

    Args:
      runs: the dataset of `sweep` at one threshold, such as `runs.sel(max_norm=1.0)`.
        All runs in it are pooled.
      name: the name given to `with_metrics`.
      max_norm: the threshold. None uses the value of the coordinate `max_norm`.

    Returns:
      A `ClippingEffect`.

    Raises:
      ValueError: If the dataset does not contain gradient norms, or does not have
        exactly one threshold.

    Example:
      >>> import numpy as np, optax, stabjax
      >>> def make_optimizer(max_norm):
      ...     clip = stabjax.clip_by_global_norm(max_norm)
      ...     clip = stabjax.with_metrics(clip, name="clip")
      ...     return optax.chain(clip, optax.sgd(0.01))
      >>> space = stabjax.grid(max_norm=[0.1, 10.0], seed=range(4))
      >>> runs = stabjax.sweep(
      ...     stabjax.problems.quadratic(), make_optimizer, space,
      ...     steps=100, record_every=1,
      ... )
      >>> stabjax.runs.clipping(runs.sel(max_norm=0.1)).is_learning_rate
      True
    """
    key = f"{name}_grad_norm"
    if key not in runs:
        raise ValueError(
            f"runs must record {key}, got {', '.join(map(str, runs.data_vars))}. Wrap "
            f"the clip in stabjax.with_metrics(..., name={name!r}), and pass "
            "record_every to sweep."
        )
    if max_norm is None:
        if "max_norm" not in runs.coords or np.size(runs["max_norm"]) != 1:
            raise ValueError(
                "max_norm must be given, or runs must contain a single one. Select it "
                "with runs.sel(max_norm=...)."
            )
        max_norm = float(runs["max_norm"].item())
    norms = runs[key].transpose(..., "step")
    leaves = {
        str(variable).removeprefix(f"{key}_"): runs[variable].transpose(*norms.dims)
        for variable in runs.data_vars
        if str(variable).startswith(f"{key}_")
    }
    values = {leaf: norms.values for leaf, norms in leaves.items()}
    return clipping_effect(norms.values, max_norm, leaf_norms=values)
