"""Run notebooks and keep their outputs, without what depends on the machine: python notebooks/refresh.py [FILE ...]

By default all of them. Widgets are not kept, since they live in a running notebook alone, nor is the line that
says what one waits for; pictures get a palette, which makes them a third of the size.
"""

import base64
import io
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

WIDGET = "application/vnd.jupyter.widget-view+json"
WAITS = ("dlnjax: compiling", "dlnjax: running", "dlnjax: searching")


def main() -> None:
    for path in map(Path, sys.argv[1:] or sorted(Path(__file__).parent.glob("*.ipynb"))):
        book = nbformat.read(path, as_version=4)
        began = time.perf_counter()
        NotebookClient(book, timeout=120, record_timing=False, resources={"metadata": {"path": path.parent}}).execute()
        took = time.perf_counter() - began
        for cell in book.cells:
            if cell.cell_type == "code":
                cell.metadata.clear()
                cell.outputs = [clean(out) for out in cell.outputs if not passes(out)]
        book.metadata = {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        nbformat.write(book, path)
        print(f"{path.name}: {took:.0f} s, {path.stat().st_size / 1024:.0f} kB", flush=True)


def passes(out) -> bool:
    """Whether an output is there while one waits only: a widget, or the line that says what one waits for."""
    line = "".join(out.get("text", "")).strip() if out.get("name") == "stderr" else None
    return WIDGET in out.get("data", {}) or line == "" or (line or "").startswith(WAITS)


def clean(out):
    out.get("metadata", {}).clear()
    if "image/png" in out.get("data", {}):
        picture = Image.open(io.BytesIO(base64.b64decode(out.data["image/png"]))).convert("RGB").quantize(256)
        picture.save(small := io.BytesIO(), "PNG", optimize=True)
        out.data["image/png"] = base64.b64encode(small.getvalue()).decode()
    return out


if __name__ == "__main__":
    main()
