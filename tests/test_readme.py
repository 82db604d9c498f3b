"""Every Python block of the README runs, in order, as one program."""

import pathlib
import re

import jax

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_readme_blocks_run(standard_promotion, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    namespace = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)

    assert namespace["loss"] < 1.0
    assert "clip/grad_norm" in capsys.readouterr().out
    runs = namespace["runs"]
    assert runs.final_loss.sizes == {
        "max_norm": 16,
        "peak_value": 16,
        "warmup_steps": 3,
        "seed": 8,
    }
    assert float(runs.final_loss.median("seed").min()) < 1e-6
    assert jax.numpy.isfinite(runs.best_loss.min().item())
