"""Tunes a digits network with Optuna: a sampler proposes batches, sweeps train them.

python examples/optuna_search.py    # needs pip install 'stabjax[optuna]'

Each batch of trials is one compiled sweep. The study is saved in a file and each batch
in a store, so the script can be stopped at any time and called again.
"""

import argparse
import pathlib
import tempfile

import optax
import optuna
from optuna.distributions import FloatDistribution

import stabjax

AXES = {
    "peak_value": FloatDistribution(1e-2, 10, log=True),
    "max_norm": FloatDistribution(1e-2, 100, log=True),
    "warmup_fraction": FloatDistribution(0, 0.5),
}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, help="default: a temporary one")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args(arguments)
    folder = options.folder or pathlib.Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)

    def make_optimizer(peak_value, max_norm, warmup_fraction):
        schedule = stabjax.warmup_cosine_decay_schedule(
            0.0, peak_value, warmup_fraction * options.steps, options.steps
        )
        return optax.chain(
            stabjax.clip_by_global_norm(max_norm), optax.sgd(schedule, momentum=0.9)
        )

    problem = stabjax.problems.digits_mlp()
    study = optuna.create_study(
        study_name="digits",
        storage=f"sqlite:///{folder / 'study.db'}",
        sampler=optuna.samplers.TPESampler(seed=0),
        load_if_exists=True,
    )
    for batch in range(options.batches):
        store = folder / f"batch_{batch}"
        space = stabjax.search.ask(study, options.batch, store, **AXES)
        runs = stabjax.sweep(
            problem,
            make_optimizer,
            space * stabjax.grid(seed=range(2)),
            steps=options.steps,
            store=store,
            progress=False,
        )
        stabjax.search.tell(study, runs)
        print(f"{len(study.trials)} trials, best mean loss {study.best_value:.3g}")
    print(study.best_params)
    return study


if __name__ == "__main__":
    main()
