"""Reproduces the Multi-Power Law's table, then fits and optimizes with stabjax.

python benchmarks/published/multi_power_law.py FOLDER

FOLDER contains the folders `25M` and `100M` with the loss curves of Luo et al., 2025
(https://arxiv.org/abs/2503.12811, https://github.com/thu-yao-01-luo/MultiPowerLaw) as
`step,lr,loss` in CSV files and their optimized schedule in `optimized_schedule.npy`.
The law is fitted on three schedules of up to 24,000 steps and judged on six others, two
of which have 72,000. The script prints

- their parameters: the errors that they print, and those that stabjax computes,
- the errors of stabjax's fit on the same three curves,
- for both, the loss that the fits minimize, and the errors on the curves that are as
  long as those fitted and on the two that are longer,
- the final loss that their law predicts for their optimized schedule, and for a
  staircase whose heights are optimized with `jax.grad`.
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

import stabjax

PEAK, LOW, WARMUP, STEPS = 3e-4, 3e-5, 2160, 24_000
FITTED = ("cosine_24000", "constant_24000", "wsdcon_9")
JUDGED = (
    "constant_72000",
    "cosine_72000",
    "wsd_20000_24000",
    "wsdld_20000_24000",
    "wsdcon_3",
    "wsdcon_18",
)
# Parameters and errors from the authors' repository and Table 2 of the paper.
THEIRS = {
    "25M": stabjax.runs.LossCurve(
        3.04045406,
        0.52468604,
        0.50786857,
        363.78751622,
        2.06560812,
        0.58279013,
        0.64142257,
    ),
    "100M": stabjax.runs.LossCurve(
        2.6514477,
        0.60115152,
        0.45295811,
        437.9464276,
        2.13245612,
        0.59785199,
        0.65523644,
    ),
}
PRINTED = {
    "25M": (0.9988, 0.00376, 0.00465, 0.00110, 0.00409),
    "100M": (0.9983, 0.00435, 0.00592, 0.00142, 0.00583),
}


def schedule_of(name):
    """The schedule of a curve. Warmup ends at the peak on its last step, 2,159."""
    kind, *numbers = name.split("_")
    decay = functools.partial(
        stabjax.wsd_schedule, PEAK, 0, 20_000 - WARMUP, 4000, end_value=LOW
    )
    after = {
        "constant": lambda steps: stabjax.constant_schedule(PEAK),
        "cosine": lambda steps: stabjax.cosine_decay_schedule(
            PEAK, int(steps) - WARMUP, alpha=LOW / PEAK
        ),
        "wsd": lambda *_: decay(shape="exponential"),
        "wsdld": lambda *_: decay(),
        "wsdcon": lambda k: stabjax.piecewise_constant_schedule(
            PEAK, {8000 - WARMUP: int(k) * 1e-5 / PEAK}
        ),
    }
    warmup = stabjax.linear_schedule(0.0, PEAK, WARMUP - 1)
    return stabjax.join_schedules([warmup, after[kind](*numbers)], [WARMUP])


def curve_of(folder, name):
    steps, _, losses = np.loadtxt(f"{folder}/{name}.csv", delimiter=",", skiprows=1).T
    return schedule_of(name), steps.astype(int), losses


def errors_of(law, curves):
    """R2, MAE, RMSE, mean and largest relative error, averaged over the curves."""
    rows = []
    for schedule, steps, losses in curves:
        wrong = np.abs(np.asarray(law.predict(schedule, steps)) - losses)
        spread = np.sum((losses - losses.mean()) ** 2)
        relative = wrong / losses
        rows.append(
            (
                1 - np.sum(wrong**2) / spread,
                wrong.mean(),
                np.sqrt(np.mean(wrong**2)),
                relative.mean(),
                relative.max(),
            )
        )
    return np.mean(rows, axis=0)


def huber_loss(law, curves, width=1e-3):
    """The sum that both fits minimize, over the differences of log losses."""
    wrong = np.concatenate(
        [
            np.abs(np.log(np.asarray(law.predict(schedule, steps)) / losses))
            for schedule, steps, losses in curves
        ]
    )
    return np.where(wrong < width, wrong**2 / 2, width * (wrong - width / 2)).sum()


def staircase(numbers):
    """A warmup and a plateau, then a staircase with shorter and shorter steps."""
    boundaries = STEPS - 1 - WARMUP - np.geomspace(6000, 20, numbers.size)
    scales = jax.nn.sigmoid(numbers)  # so the schedule never rises
    after = stabjax.piecewise_constant_schedule(PEAK, (list(boundaries), scales))
    warmup = stabjax.linear_schedule(0.0, PEAK, WARMUP - 1)
    return stabjax.join_schedules([warmup, after], [WARMUP])


def optimized(law, stairs=12):
    """Minimizes the predicted final loss over the heights of the stairs."""

    @jax.jit
    @jax.value_and_grad
    def final_loss(numbers):
        return law.predict(staircase(numbers), STEPS - 1)

    return minimize(
        lambda x: tuple(np.asarray(v, float) for v in final_loss(jnp.asarray(x))),
        np.ones(stairs),
        jac=True,
        method="L-BFGS-B",
    )


def report(folder, model):
    law = THEIRS[model]
    judged = [curve_of(folder, name) for name in JUDGED]
    curves = [curve_of(folder, name) for name in FITTED]
    fitted = stabjax.runs.fit_loss_curve(curves)
    rows = {
        "theirs, printed": PRINTED[model],
        "their parameters": errors_of(law, judged),
        "stabjax's fit": errors_of(fitted, judged),
    }
    print(f"\n{model:22s}     R2     MAE    RMSE  mean relative  largest relative")
    for name, (r2, mae, rmse, mean, largest) in rows.items():
        print(f"{name:22s} {r2:.4f} {mae:.5f} {rmse:.5f} {mean:14.5f} {largest:17.5f}")
    long = [curve for curve in judged if curve[1][-1] > STEPS]
    short = [curve for curve in judged if curve[1][-1] <= STEPS]
    for name, one in (("their parameters", law), ("stabjax's fit", fitted)):
        print(
            f"{name:22s} loss of the fit {huber_loss(one, curves):.6f}, MAE "
            f"{errors_of(one, short)[1]:.5f} up to {STEPS:,} steps, "
            f"{errors_of(one, long)[1]:.5f} of the curves to 72,000"
        )
    same = curve_of(folder, "constant_24000"), curve_of(folder, "constant_72000")
    (_, steps, first), (_, _, second) = same
    noise = np.abs(first - second[: first.size])
    print(f"two runs of the constant schedule differ by {noise.mean():.5f} (mean)")
    print(f"stabjax's fit: {fitted}")

    after = np.load(f"{folder}/optimized_schedule.npy")
    warmup = np.linspace(0, PEAK, WARMUP)
    theirs = float(law.predict(np.concatenate([warmup, after]), STEPS - 1))
    found = optimized(law)
    cosine, wsd = (
        float(law.predict(schedule_of(name), STEPS - 1))
        for name in ("cosine_24000", "wsd_20000_24000")
    )
    print("final loss at 24,000 steps by their law")
    print(f"  cosine {cosine:.5f}, wsd {wsd:.5f}")
    print(f"  their optimized schedule {theirs:.5f}, stabjax's {found.fun:.5f}")
    return rows, theirs, found.fun


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    with jax.enable_x64(True):
        for model in THEIRS:
            report(folder / model, model)


if __name__ == "__main__":
    main()
