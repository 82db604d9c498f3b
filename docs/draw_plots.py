"""Draws the pictures of docs/plots.md with its own lines: python docs/draw_plots.py."""

import io
import pathlib
import re

from PIL import Image

PAGE = pathlib.Path(__file__).parent / "plots.md"
# A block of Python, and the picture that is to follow it, if there is one.
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n!\[[^]]*]\((.*?)\))?", re.DOTALL)


def save(figure, path):
    """As a PNG of few colours, which is a third of the size."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    picture = Image.open(drawn).convert("RGB").quantize(128)
    picture.save(path, optimize=True)


def main():
    namespace = {}
    for code, picture in BLOCK.findall(PAGE.read_text()):
        exec(compile(code, str(PAGE), "exec"), namespace)
        if picture:
            path = PAGE.parent / picture
            path.parent.mkdir(exist_ok=True)
            save(namespace["ax"].figure, path)
            print(picture)


if __name__ == "__main__":
    main()
