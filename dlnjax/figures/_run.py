"""A figure on disk: its data, NAME.nc, and the drawings and numbers that are made from them.

A file is written under another name and then renamed. It is therefore either complete or absent.
"""

import os
import platform
import re
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, UTC
from pathlib import Path
from typing import NamedTuple

import jax
import matplotlib
import xarray
from jaxtyping import PRNGKeyArray

import dlnjax
from dlnjax import plot
from dlnjax._versions import version_of
from dlnjax.figures import FIGURES
from dlnjax.figures._figure import Figure, Number

FORMAT = "dlnjax.figure/1"


class Run(NamedTuple):
    """A figure with its data, which were read from `path`, and its numbers."""

    figure: Figure
    path: Path
    data: xarray.Dataset
    numbers: list[Number]

    @property
    def drawing(self) -> Path:
        return self.path.with_name(f"{self.figure.name}.svg")


def identity(name: str, *, seed: int, seeds: int, quick: bool) -> dict[str, str | int]:
    """The attributes that determine the data of a figure. Two runs with the same attributes have the same data."""
    return {
        "format": FORMAT,
        "dlnjax": dlnjax.__version__,
        "figure": name,
        "seed": seed,
        "seeds": seeds,
        "quick": int(quick),
    }


def is_kept(path: Path, wanted: dict[str, str | int]) -> bool:
    """Whether `path` holds the data of a run with these attributes."""
    try:
        attrs = read(path).data.attrs
    except ValueError:
        return False
    return all(str(attrs.get(name)) == str(value) for name, value in wanted.items())


def key_of(name: str, seed: int) -> PRNGKeyArray:
    """The key of the random draws of a figure. Each figure has another key."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def compute(path: Path, wanted: dict[str, str | int]) -> None:
    """Compute the data of a figure and write them to `path`, which is replaced as a whole."""
    name = str(wanted["figure"])
    figure = FIGURES[name]
    date, began = datetime.now(UTC), time.perf_counter()
    data = figure.compute(key_of(name, int(wanted["seed"])), int(wanted["seeds"]))
    made = {"seconds": round(time.perf_counter() - began, 2), "date": f"{date:%Y-%m-%d %H:%M} UTC"}
    data.attrs |= wanted | {"title": figure.title, "machine": _machine(), "versions": _versions()} | made
    with replacing(path) as fresh:
        data.to_netcdf(fresh, engine="scipy", format="NETCDF3_64BIT")


def read(path: Path) -> Run:
    """The figure whose data lie at `path`.

    **Raises:** `ValueError` if the file cannot be read, or does not hold the data of a figure of this version.
    """
    try:
        with xarray.open_dataset(path, engine="scipy") as file:
            data = file.load()
    except (IndexError, KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"cannot read {path} as the data of a figure: {error}") from error
    figure = FIGURES.get(data.attrs.get("figure", ""))
    found = data.attrs.get("format")
    if figure is None or found != FORMAT:
        raise ValueError(f"{path} does not hold the data of a figure: its format is {found!r}, expected {FORMAT!r}.")
    try:
        return Run(figure, path, data, figure.numbers(data))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        again = f"Compute it again: dlnjax reproduce --figure {figure.name}"
        raise ValueError(f"{path} does not hold what figure {figure.name} shows: {error!r}. {again}") from error


def draw(run: Run) -> Path:
    """Draw a figure into the folder of its data, as NAME.png and NAME.svg. Returns the path of NAME.svg."""
    fresh = run.path.with_name(f".{run.figure.name}.part")
    # Letters are drawn as outlines, so that the picture does not depend on the fonts of the machine.
    with plot.style(), matplotlib.rc_context({"svg.fonttype": "path"}):
        plot.save(run.figure.draw(run.data), fresh)
    for kind in ("png", "svg"):
        os.replace(f"{fresh}.{kind}", run.drawing.with_name(f"{run.figure.name}.{kind}"))
    return run.drawing


def is_drawn(run: Run) -> bool:
    """Whether there is a drawing that is not older than the data."""
    return run.drawing.exists() and run.drawing.stat().st_mtime_ns >= run.path.stat().st_mtime_ns


def choose(wanted: Iterable[str] | None, names: Iterable[str]) -> list[str]:
    """Those of `names` that `wanted` has, by name (4.2d) or by group (4.2), or all of them if `wanted` is None.

    **Raises:** `KeyError` with the first entry of `wanted` that matches no name.
    """
    names = list(names)
    if wanted is None:
        return names
    wanted = list(wanted)
    for each in wanted:
        if not any(each in (name, _group(name)) for name in names):
            raise KeyError(each)
    return [name for name in names if name in wanted or _group(name) in wanted]


def _group(name: str) -> str:
    return re.sub(r"(?<=\d)[a-z]$", "", name)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path, which is renamed to `path` at the end.

    If the process is killed earlier, `path` is unchanged.
    """
    fresh = path.with_name(f".{path.name}.part")
    yield fresh
    os.replace(fresh, path)


def _machine() -> str:
    device = jax.devices()[0]
    try:
        model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        model = None
    cpu = model.group(1) if model else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    used = "" if device.platform == "cpu" else f", {device.device_kind}"
    return f"{cpu}, {cores} cores, {platform.system()} {platform.machine()}{used}"


def _versions() -> str:
    packages = ("jax", "diffrax", "equinox", "numpy", "scipy", "matplotlib")
    own = [f"dlnjax {dlnjax.__version__}", f"Python {platform.python_version()}"]
    return ", ".join(own + [f"{package} {version_of(package)}" for package in packages])
