"""Draws the figures in docs/plots.md with the code on the page."""

import io
import pathlib
import re

from PIL import Image

PAGE = pathlib.Path(__file__).parent / "plots.md"
# A Python block and the name of the figure that follows it, if there is one.
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n!\[[^]]*]\((.*?)\))?", re.DOTALL)


def save(figure, path):
    """Saves a PNG file with a color palette, which is a third of the size."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    image = Image.open(drawn).convert("RGB").quantize(128)
    image.save(path, optimize=True)


def main():
    namespace = {}
    for code, name in BLOCK.findall(PAGE.read_text()):
        exec(compile(code, str(PAGE), "exec"), namespace)
        if name:
            path = PAGE.parent / name
            path.parent.mkdir(exist_ok=True)
            save(namespace["ax"].figure, path)
            print(name)


if __name__ == "__main__":
    main()
