"""Sweeps your own model on one machine, a Dask cluster or a SLURM job array.

All parts write to the same store, and any of them can be stopped and restarted.

    python examples/sweep_cluster.py --store runs                  # one machine
    python examples/sweep_cluster.py --store runs --dask 4         # four Dask workers
    sbatch examples/sweep_cluster.sbatch                           # a SLURM job array
    python examples/sweep_cluster.py --store runs --report         # print the best run
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import stabjax


def init(key):
    first, second = jax.random.split(key)
    return {
        "hidden": jax.random.normal(first, (64, 32)) / 8,
        "output": jax.random.normal(second, (32, 10)) / 6,
    }


def apply(params, images):
    return jax.nn.relu(images @ params["hidden"]) @ params["output"]


def make_problem():
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    return stabjax.problems.supervised(
        (init, apply),
        images[:1400],
        labels[:1400],
        loss=optax.softmax_cross_entropy_with_integer_labels,
        batch_size=64,
        test=(images[1400:], labels[1400:]),
    )


def make_optimizer(max_norm, rate):
    return optax.chain(stabjax.clip_by_global_norm(max_norm), optax.sgd(rate))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", required=True, help="a folder that all jobs share")
    parser.add_argument("--part", type=int, nargs=2, metavar=("I", "N"))
    parser.add_argument("--dask", type=int, metavar="WORKERS")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(arguments)
    if options.report:
        runs = stabjax.runs.load(options.store)
        print(stabjax.runs.best(runs, "test_loss"))
        return runs

    space = stabjax.grid(
        max_norm=jnp.logspace(-1, 1, 4), rate=jnp.logspace(-2, 1, 6), seed=range(4)
    )
    settings = {"steps": options.steps, "store": options.store, "chunk_size": 16}
    if options.dask:
        from dask.distributed import Client

        with Client(n_workers=options.dask, threads_per_worker=1) as client:
            executor = client.get_executor()
            return stabjax.sweep(
                make_problem, make_optimizer, space, executor=executor, **settings
            )
    part = tuple(options.part) if options.part else None
    return stabjax.sweep(make_problem, make_optimizer, space, part=part, **settings)


if __name__ == "__main__":
    main()
