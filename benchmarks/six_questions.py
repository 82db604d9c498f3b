"""Six questions of `docs/answers.md`, asked to larger sweeps of two problems.

python benchmarks/six_questions.py [--problem digits_mlp] [--seeds 16] [--store DIR]

Digits are trained with SGD and the character transformer with Adam: over peak rates,
thresholds, lengths of the final decay and seeds; and, without a threshold, over widths.
"""

import argparse
import pathlib
from typing import NamedTuple

import numpy as np
import optax

import stabjax


class Study(NamedTuple):
    """A problem, its optimizer and its spaces."""

    problem: object
    inner: object
    peaks: np.ndarray
    sizes: dict
    steps: int


STUDIES = {
    "digits_mlp": Study(
        stabjax.problems.digits_mlp,
        optax.sgd,
        np.logspace(-1.5, 2, 15),
        {"hidden": stabjax.static([8, 16, 32, 64, 128])},
        200,
    ),
    "char_transformer": Study(
        stabjax.problems.char_transformer,
        optax.adam,
        np.logspace(-3.5, -0.5, 13),
        {"width": stabjax.static([16, 32, 64])},
        150,
    ),
}


def swept(name, seeds, store):
    """The sweep over thresholds and decays, and the one over widths."""
    study = STUDIES[name]
    steps = study.steps

    def make_optimizer(peak_value, decay_steps, max_norm):
        schedule = stabjax.wsd_schedule(peak_value, 0, steps - decay_steps, decay_steps)
        clip = stabjax.clip_by_global_norm(max_norm)
        clip = stabjax.with_metrics(clip, "clip", per_leaf=True)
        return optax.chain(clip, study.inner(schedule))

    decays = [1, steps // 5, steps]
    space = stabjax.grid(
        peak_value=study.peaks,
        decay_steps=decays,
        max_norm=[0.05, 0.5, np.inf],
        seed=range(seeds),
    )
    common = {"steps": steps, "progress": False}
    folder = pathlib.Path(store, name) if store else None
    runs = stabjax.sweep(
        study.problem(), make_optimizer, space, record_every=5, store=folder, **common
    )
    wide = stabjax.grid(
        **study.sizes,
        peak_value=study.peaks,
        decay_steps=[steps],
        max_norm=[np.inf],
        seed=range(seeds),
    )
    folder = pathlib.Path(store, f"{name}_sizes") if store else None
    sizes = stabjax.sweep(study.problem, make_optimizer, wide, store=folder, **common)
    return space, runs, sizes, *study.sizes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", choices=[*STUDIES], default="digits_mlp")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--store", metavar="DIR")
    parser.add_argument("--out", metavar="FILE", help="draw the answers")
    options = parser.parse_args()
    space, runs, sizes, size = swept(options.problem, options.seeds, options.store)
    best = stabjax.runs.best(runs)
    small = runs.sel(max_norm=0.05, decay_steps=best.point["decay_steps"])
    at = stabjax.runs.optimum(small, "peak_value").value.value
    questions = {
        "Which rate, and how sure?": stabjax.runs.optimum(runs, "peak_value"),
        "Does it move with width?": stabjax.runs.scaling(sizes, "peak_value", size),
        "Is the threshold a learning rate?": stabjax.runs.clipping(
            small.sel(peak_value=at, method="nearest")
        ),
        "And its best rate?": stabjax.runs.optimum(small, "peak_value"),
        "Which schedule is best?": stabjax.runs.compare(runs, "decay_steps"),
        "What would another threshold give?": stabjax.runs.compare(
            runs, "max_norm", baseline=np.inf
        ),
        "What does a wrong rate cost?": stabjax.runs.sensitivity(runs, "peak_value"),
        "What matters?": stabjax.runs.importance(runs),
        "Where to sweep next?": stabjax.runs.refine(space, runs),
    }
    for question, answer in questions.items():
        print(f"\n{question}\n{answer}")
    if options.out:
        del questions["And its best rate?"]  # looks like the first
        drawn = [a for a in questions.values() if hasattr(a, "caveats")]
        axes = stabjax.plot.panels(3, -(-len(drawn) // 3))
        for ax, answer in zip(axes, drawn, strict=False):
            stabjax.plot.answer(answer, ax=ax)
        axes[0].figure.savefig(options.out)


if __name__ == "__main__":
    main()
