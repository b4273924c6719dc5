"""The page as a widget: what the browser asks, and the drawings with which Python answers."""

from dataclasses import fields
from pathlib import Path

import anywidget  # pyright: ignore[reportMissingImports]
import traitlets  # pyright: ignore[reportMissingImports]

from dlnjax.explore._state import State, written

FOLDER = Path(__file__).parent


def _shared(default: dict | None = None):
    return traitlets.Dict(default or {}).tag(sync=True)


class Page(anywidget.AnyWidget):
    """The page. Each view is an attribute, to which a drawing is assigned.

    **Attributes:** `asked`, the number and the state of what the browser asks for; `answer`, the same number, the
    progress of the work, and what is said in words; `texts`, the state as a program and as a line for the shell.
    """

    _esm = FOLDER / "page.js"
    _css = FOLDER / "page.css"

    defaults = _shared({field.name: written(getattr(State(), field.name)) for field in fields(State)})
    asked = _shared({"n": 0, "query": ""})
    answer = _shared()
    texts = _shared()
    singular_values = _shared()
    matrix = _shared()
    effective_rank = _shared()
    plane = _shared()
    depth_map = _shared()
    speed_law = _shared()
    geodesic = _shared()
    network = _shared()
