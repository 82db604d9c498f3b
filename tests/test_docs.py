"""Every Python block of every page of the docs runs, a page being one program."""

import pathlib
import re

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stabjax

PAGES = sorted((pathlib.Path(__file__).parents[1] / "docs").glob("**/*.md"))
# These compile networks or train many runs.
SLOW = {"answers.md", "own_model.md", "plots.md", "schedules.md", "sharding.md"}
SLOW |= {"first_sweep.md", "study.md", "sweeps.md"}
RUN = [
    pytest.param(page, marks=pytest.mark.slow) if page.name in SLOW else page
    for page in PAGES
]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_blocks_run(page, standard_promotion):
    if "import equinox" in page.read_text():
        pytest.importorskip("equinox")
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
