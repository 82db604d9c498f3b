"""Every Python block of every page of the docs runs, a page being one program."""

import pathlib
import re
import sys
import types

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stabjax

PAGES = sorted((pathlib.Path(__file__).parents[1] / "docs").glob("**/*.md"))
# These compile networks or train many runs.
SLOW = {"answers.md", "own_model.md", "plots.md", "schedules.md", "sharding.md"}
SLOW |= {"cluster.md", "first_sweep.md", "logging.md", "study.md", "sweeps.md"}
RUN = [
    pytest.param(page, marks=pytest.mark.slow) if page.name in SLOW else page
    for page in PAGES
]


class Session:
    """A session of W&B, which is not installed here, that checks what it gets."""

    def __init__(self, *, project, mode, config):
        assert (project, mode) == ("digits", "offline")
        assert all(type(value) is float for value in config.values())
        self.summary, self.steps = {}, []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        assert self.steps == [*range(10)]
        assert 0 <= self.summary["train_accuracy"] <= 1

    def log(self, values, *, step):
        assert type(step) is int and np.isfinite(values["loss"])
        self.steps.append(step)


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_blocks_run(page, standard_promotion, monkeypatch):
    if "import equinox" in page.read_text():
        pytest.importorskip("equinox")
    if "import wandb" in page.read_text():
        monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=Session))
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    namespace = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), namespace)


def test_each_line_on_the_right_works(standard_promotion):
    """The right column of the tables of `coming-from.md`, of every row."""
    (page,) = (page for page in PAGES if page.name == "coming-from.md")
    rows = re.findall(r"^\| .* \| `(.*?)`.* \|$", page.read_text(), flags=re.MULTILINE)
    names = {"stabjax": stabjax, **vars(stabjax.compat), "f": lambda count: 0.9}
    names |= {"jnp": jnp}
    names |= {"schedule": optax.constant_schedule(0.1)}
    names["opt_state"] = optax.inject_hyperparams(optax.sgd)(0.1).init(0.0)
    assert len(rows) > 35
    for row in rows:
        made = eval(row, names)
        if callable(made):
            assert 0 <= float(made(7)) < 1
        else:
            assert hasattr(made, "update") or made == np.float32(0.1)
