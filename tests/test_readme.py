"""Every Python block of the README runs, in order, as one program."""

import pathlib
import re

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
        "max_norm": 3,
        "peak_value": 7,
        "warmup_steps": 2,
        "seed": 3,
    }
    assert 0.9 < float(runs.test_accuracy.mean("seed").max()) < 1.0
    assert set(runs.status.values.flat) <= {0, 1}
