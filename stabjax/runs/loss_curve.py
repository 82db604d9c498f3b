"""The Multi-Power Law, which predicts loss curves under any learning rate schedule."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import lax
from jax.typing import ArrayLike
from scipy.optimize import least_squares, nnls

from stabjax._arguments import check, is_concrete
from stabjax._types import Schedule

# A schedule or the rates of all steps from step 0, the steps, and the loss after each.
Curve: TypeAlias = tuple[Schedule | ArrayLike, ArrayLike, ArrayLike]
_Array: TypeAlias = np.ndarray[Any, Any]

_MERGED = 24  # consecutive changes of a rate that a fit sums as one
_LEAST = 1e-6  # loss predicted during a fit
_AT_ONCE = 2**22  # elements of the double sum in memory
_HUBER = 1e-3  # width of the Huber loss on log losses; the authors' value
# Few curves hardly determine beta and gamma: without a prior, gamma is 0.9 for one of
# the authors' models and 1.4 for another. They start both at 0.5 and stop early.
_USUAL = 0.5
_PRIOR = 0.1  # residual of a factor e, in log losses


class LossCurve(NamedTuple):
    """A fitted Multi-Power Law, as returned by `fit_loss_curve`.

    A pytree of numbers, so the law can be traced and differentiated. Its fields are the
    parameters of the formula in `fit_loss_curve`.

    Attributes:
      floor: L_0, the loss after infinitely many steps.
      scale: A, the scale of the power law in the sum of rates.
      alpha: the exponent of that power law.
      drop: B, the loss reduction per unit of decrease of the rate.
      speed: C, how fast a decrease of the rate takes effect.
      beta: the exponent of that effect.
      gamma: the exponent of its dependence on the rate.
    """

    floor: ArrayLike
    scale: ArrayLike
    alpha: ArrayLike
    drop: ArrayLike
    speed: ArrayLike
    beta: ArrayLike
    gamma: ArrayLike

    def predict(self, schedule: Schedule | ArrayLike, steps: ArrayLike) -> jax.Array:
        """Predicts the loss under a schedule after the given steps.

        A single step t costs O(t) operations, and n steps cost O(n t), computed in
        chunks. In float32, predictions are accurate to about five digits.

        Args:
          schedule: any function of the count, or the rates of all steps from step 0 to
            the last one of `steps`. Its numbers may be traced, so `jax.grad` of a
            prediction optimizes them. **Traceable.**
          steps: one or more steps, counted from 0. The loss of step t is the one after
            t + 1 updates. **Static.**

        Returns:
          The loss after each of the steps, in the shape of `steps`.

        Raises:
          ValueError: If a step is negative, or there are fewer rates than steps.
        """
        at = _checked_steps(steps)
        rates = _rates(schedule, int(at.max(initial=0)) + 1)
        sums = jnp.cumsum(rates)
        falls = _Falls(rates[:-1] - rates[1:], rates[1:], sums[:-1])
        if is_concrete(rates):  # steps without a change have no term in the sum
            falls = _Falls(*(x[np.asarray(falls.amounts) != 0] for x in falls))
        losses: jax.Array = _law(self, falls, sums[at.ravel()])
        return losses.reshape(at.shape)

    def __repr__(self) -> str:
        """Returns the formula with its numbers."""
        values = " ".join(f"{k}={float(v):.4g}" for k, v in self._asdict().items())
        return f"LossCurve({values})"

    def to_dict(self) -> dict[str, float]:
        """Returns plain numbers."""
        return {name: float(value) for name, value in self._asdict().items()}


def fit_loss_curve(curves: Sequence[Curve] | xr.Dataset) -> LossCurve:
    """Fits the Multi-Power Law to loss curves under a few schedules.

        L(t) = L_0 + A S(t)^-alpha
               - B sum_{k=1}^t (eta_{k-1} - eta_k) G(eta_k^-gamma S_k(t))
        G(x) = 1 - (1 + C x)^-beta
        S(t) = sum_{i=0}^t eta_i,    S_k(t) = sum_{i=k}^t eta_i

    The first part is a power law in the sum of learning rates. The second part is the
    reduction of the loss as the rate decreases. After the fit, `predict` gives the loss
    under any other schedule. The seven numbers minimize the Huber loss (width 0.001) of
    the differences of log losses. Since a few curves hardly determine beta and gamma, a
    weak prior draws both to 0.5.

    At least two schedules are needed, one of which decreases the rate; the authors use
    a constant, a two-stage and a cosine schedule. Leave out the losses during warmup,
    which the law does not describe. All runs must have the same model, data, batch size
    and peak rate, and losses must be positive.

    Args:
      curves: a sequence of `(schedule, steps, losses)`. The schedule is any function of
        the count, or the rates of all steps from step 0. The steps are counted from 0,
        and each loss is the one after that step's update. Alternatively, a dataset
        returned by `sweep` with `loss` and `learning_rate` at every step
        (`record_every=1`, `stabjax.with_learning_rate`), whose losses are averaged over
        the seeds.

    Returns:
      A `LossCurve`, whose method `predict` returns the loss under any schedule.

    Raises:
      ValueError: If there are no curves, fewer rates than steps, fewer than seven
        losses, a loss or step is out of range, or the dataset lacks these variables.

    Example:
      >>> import numpy as np, stabjax
      >>> law = stabjax.runs.LossCurve(2.0, 0.5, 0.5, 300.0, 2.0, 0.6, 0.6)
      >>> constant = stabjax.constant_schedule(3e-4)
      >>> halved = stabjax.piecewise_constant_schedule(3e-4, {400: 0.3})
      >>> steps = np.arange(100, 1000, 20)
      >>> curves = [(s, steps, law.predict(s, steps)) for s in (constant, halved)]
      >>> curve = stabjax.runs.fit_loss_curve(curves)
      >>> cosine = stabjax.cosine_decay_schedule(3e-4, 1000)
      >>> bool(abs(curve.predict(cosine, 999) - law.predict(cosine, 999)) < 0.005)
      True

    References:
      Luo et al., A Multi-Power Law for Loss Curve Prediction Across Learning Rate
      Schedules, 2025. https://arxiv.org/abs/2503.12811
    """
    given = _curves_of(curves) if isinstance(curves, xr.Dataset) else curves
    if len(given) == 0:
        raise ValueError("curves must contain at least one curve, got none.")
    with jax.enable_x64(True):
        checked = [_checked(curve) for curve in given]
        if sum(losses.size for *_, losses in checked) < 7:
            raise ValueError(
                "curves must contain at least seven losses, one for each number."
            )
        peak = max(float(rates.max()) for rates, *_ in checked)
        measured = [_measured(peak, *curve) for curve in checked]
        return _in_units_of(_minimized(measured, _start(measured)), peak)


class _Falls(NamedTuple):
    """The decreases of a rate that the law sums over."""

    amounts: jax.Array  # eta_{k-1} - eta_k
    rates: jax.Array  # eta_k
    before: jax.Array  # S(k - 1)


class _Measured(NamedTuple):
    """A loss curve in float64: S(t) and the logarithm of the loss at each step t."""

    falls: _Falls
    sums: jax.Array
    log_losses: jax.Array


def _measured(peak: float, rates: _Array, steps: _Array, losses: _Array) -> _Measured:
    """Expresses rates relative to the peak, which makes their unit irrelevant."""
    rates = rates / peak
    sums = np.cumsum(rates)
    amounts = -np.diff(rates)
    changes = np.flatnonzero(amounts)
    first = np.diff(changes, prepend=-2) != 1
    run = np.cumsum(first)
    chunk = (changes - changes[np.flatnonzero(first)][run - 1]) // _MERGED
    at = np.flatnonzero(np.diff(run, prepend=0) | np.diff(chunk, prepend=0))
    groups = np.split(changes, at[1:]) if changes.size else []
    falls = np.zeros((3, len(groups)))
    for i, group in enumerate(groups):
        # Merging at the mean step changes the authors' mean errors by less than 1e-6.
        weights = np.abs(amounts[group])
        middle = int(np.rint(np.average(group, weights=weights)))
        falls[:, i] = amounts[group].sum(), rates[middle + 1], sums[middle]
    return _Measured(
        _Falls(*map(jnp.asarray, falls)),
        jnp.asarray(sums[steps]),
        jnp.asarray(np.log(losses)),
    )


def _checked(curve: Curve) -> tuple[_Array, _Array, _Array]:
    """Returns the rates of all steps, the steps and the losses of a curve."""
    schedule, steps, losses = curve
    at, values = _checked_steps(steps).ravel(), np.asarray(losses, float).ravel()
    if at.shape != values.shape or not at.size:
        raise ValueError(
            f"steps and losses must be non-empty and of one size, got {at.size} and "
            f"{values.size}."
        )
    check("losses", values, "in (0, inf)")
    rates = np.asarray(_rates(schedule, int(at.max()) + 1), float)
    check("schedule", rates, ">= 0")
    return rates, at, values


def _checked_steps(steps: ArrayLike) -> _Array:
    at = np.asarray(steps)
    check("steps", at, ">= 0")
    return at.astype(np.int64)


def _rates(schedule: Schedule | ArrayLike, number: int) -> jax.Array:
    """Returns the rates of steps 0 to number - 1."""
    if callable(schedule):
        values = jax.vmap(lambda count: jnp.asarray(schedule(count)))(
            jnp.arange(number, dtype=jnp.int32)
        )
    else:
        values = jnp.asarray(schedule)
        if values.ndim != 1 or values.size < number:
            raise ValueError(
                f"schedule must contain at least {number} rates, one for each step "
                f"from 0, got shape {values.shape}."
            )
    return values[:number].astype(jnp.result_type(values, float))


@jax.jit
def _law(curve: LossCurve, falls: _Falls, sums: jax.Array) -> jax.Array:
    """Computes the law at steps with the given S(t)."""
    floor, scale, alpha, drop, *shape = (jnp.asarray(x, sums.dtype) for x in curve)

    def at(spent: jax.Array) -> jax.Array:
        # Later decreases have no effect because S_k(t) is not positive.
        effect = _effect(falls.rates, spent - falls.before, *shape)
        return floor + scale * spent**-alpha - drop * jnp.sum(falls.amounts * effect)

    batch = max(_AT_ONCE // max(falls.amounts.size, 1), 1)
    losses: jax.Array = lax.map(at, sums, batch_size=batch)
    return losses


def _effect(
    rates: jax.Array,
    spent: jax.Array,
    speed: jax.Array,
    beta: jax.Array,
    gamma: jax.Array,
) -> jax.Array:
    """Computes G, with its limits at a rate of 0: 1 if S_k > 0, and 0 otherwise."""
    moves = (rates > 0) & (spent > 0)
    x = jnp.where(moves, rates, 1) ** -gamma * jnp.where(moves, spent, 1)
    value = -jnp.expm1(-beta * jnp.log1p(speed * x))
    return jnp.where(moves, value, jnp.where(spent > 0, 1, 0))


def _start(measured: Sequence[_Measured]) -> _Array:
    """Returns the logarithms of the best of some starting points.

    For a given alpha and C, the law is linear in L_0, A and B.
    """
    losses = np.exp(np.concatenate([m.log_losses for m in measured]))
    best, chosen = np.inf, np.ones(7)
    for alpha, speed in itertools.product((0.3, 0.5, 0.8), (0.3, 0.1, 0.01)):
        shape = speed, _USUAL, _USUAL
        columns = []
        for floor, scale, drop in np.eye(3):
            part = LossCurve(floor, scale, alpha, drop, *shape)
            columns.append(
                np.concatenate([_law(part, m.falls, m.sums) for m in measured])
            )
        (floor, scale, drop), error = nnls(np.stack(columns, axis=1), losses)
        if error < best:
            best, chosen = error, np.array([floor, scale, alpha, drop, *shape])
    return np.log(np.maximum(chosen, 1e-3))


def _minimized(measured: Sequence[_Measured], start: _Array) -> _Array:
    """Minimizes the Huber loss over the logarithms of the numbers."""

    def residuals(logs: jax.Array) -> jax.Array:
        curve = LossCurve(*jnp.exp(logs))
        found = [
            jnp.log(jnp.maximum(_law(curve, m.falls, m.sums), _LEAST)) - m.log_losses
            for m in measured
        ]
        usual = _PRIOR * (logs[5:] - jnp.log(_USUAL))
        return jnp.concatenate([*found, usual])

    compiled: Callable[[_Array], Any] = jax.jit(residuals)
    slopes: Callable[[_Array], Any] = jax.jit(jax.jacfwd(residuals))
    solution = least_squares(
        lambda logs: np.asarray(compiled(logs)),
        start,
        lambda logs: np.asarray(slopes(logs)),
        loss="huber",
        f_scale=_HUBER,
        x_scale="jac",
        max_nfev=200,
    )
    found: _Array = np.exp(solution.x)
    return found


def _in_units_of(numbers: _Array, peak: float) -> LossCurve:
    """Converts the law of rates relative to the peak to the law of rates."""
    floor, scale, alpha, drop, speed, beta, gamma = (float(x) for x in numbers)
    speed *= peak ** (gamma - 1)
    return LossCurve(floor, scale * peak**alpha, alpha, drop / peak, speed, beta, gamma)


def _curves_of(runs: xr.Dataset) -> list[Curve]:
    """Returns one curve for each point of a dataset, averaged over the seeds."""
    for name in ("loss", "learning_rate"):
        if name not in runs or "step" not in runs[name].dims:
            raise ValueError(
                f"curves must have {name} at every step. Use record_every=1 and "
                "stabjax.with_learning_rate."
            )
    steps = runs["step"].to_numpy()
    if not np.array_equal(steps, np.arange(steps.size)):
        raise ValueError("curves must have every step from 0. Use record_every=1.")
    kept = runs[["loss", "learning_rate"]]
    mean = kept.mean("seed") if "seed" in kept.dims else kept
    flat = mean.stack(point=[d for d in mean.dims if d != "step"])
    losses, rates = (
        np.atleast_2d(flat[name].transpose("point", "step").to_numpy())
        for name in ("loss", "learning_rate")
    )
    # The recorded loss of step t precedes its update.
    return [(r, steps[:-1], x[1:]) for r, x in zip(rates, losses, strict=True)]
