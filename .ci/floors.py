"""Print the floors of pyproject.toml as constraints for pip: `jax>=1` as `jax==1`."""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"].values()
requirements = [*project["dependencies"], *(line for extra in extras for line in extra)]
floors = [re.fullmatch(r"([\w.-]+)>=([\w.]+)", line) for line in requirements]
sys.stdout.writelines(f"{floor[1]}=={floor[2]}\n" for floor in floors if floor)
