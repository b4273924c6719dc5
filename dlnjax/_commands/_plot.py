"""`dlnjax plot`: draws figures again from their data, and the sweep in a folder."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

import dlnjax.plot
from dlnjax._commands._common import Refused
from dlnjax._saved import solution_of
from dlnjax._sweeps.folder import open_folder
from dlnjax.figures import _run
from dlnjax.plot._grid import shown

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


def plot(args: argparse.Namespace) -> int:
    """Draw each figure and each sweep that was named, and write it to the folder of its data."""
    sweeps = [target for target in args.data if (target / "call.json").is_file()]
    args.data = [target for target in args.data if target not in sweeps]
    for folder in sweeps:
        try:
            drawn = _draw_sweep(folder)
        except (ImportError, ValueError) as error:
            raise Refused(str(error)) from error
        except OSError as error:
            raise Refused(f"cannot draw into {folder}: {error.strerror or error}.") from error
        print(drawn)
    paths = list(dict.fromkeys(path for target in args.data for path in _find(target)))
    for path in paths:
        try:
            drawn = _run.draw(_run.read(path))
        except ValueError as error:
            raise Refused(str(error)) from error
        except OSError as error:
            raise Refused(f"cannot draw into {path.parent}: {error.strerror or error}.") from error
        print(drawn)
    return 0


def _find(target: Path) -> list[Path]:
    """The data that `target` names: a file, a folder, or a figure or a group in a folder, `out/4.2a` or `out/4.2`."""
    if target.is_file():
        return [target]
    folder, wanted = (target, None) if target.is_dir() else (target.parent, [target.name])
    there = {path.stem: path for path in sorted(folder.glob("*.nc"))}
    if not there:
        raise Refused(f"there is no data of figures in {folder}. To compute it: dlnjax reproduce --out {folder}")
    try:
        return [there[name] for name in _run.choose(wanted, there)]
    except KeyError as error:
        raise Refused(f"there is no data for {target}. In {folder} there are: {', '.join(there)}.") from error


def _draw_sweep(folder: Path) -> Path:
    """Draw a finished sweep, as `sweep.png` and `sweep.svg` in its folder."""
    stem = folder / "sweep"
    with dlnjax.plot.style():
        dlnjax.plot.save(_picture_of(open_folder(folder)), stem)
    return stem.with_suffix(".png")


def _picture_of(data: "xarray.Dataset") -> "Figure":
    """Ranks and singular values in time of one ensemble, ranks against one axis of a grid, or a heat map over two."""
    if "effective_rank" not in data:
        raise ValueError("a sweep of networks has no effective ranks to draw: see dlnjax.load and its product.")
    axes = [str(name) for name in data["effective_rank"].dims[:-2]]
    if len(axes) > 2:
        raise ValueError(
            f"a grid of {len(axes)} axes is not drawn, only one of two or fewer: choose a point of an axis in Python, "
            "such as dlnjax.plot.heat_map(data.sel(depth=2), ...)."
        )
    figure = dlnjax.plot.new_figure(6.8 if len(axes) < 2 else 4.2)
    rows, columns, seeds = (data.sizes[name] for name in ("row", "column", "seed"))
    what = [data.attrs.get("energy_name", "an energy"), f"{rows} x {columns}", f"{seeds} seeds"]
    figure.suptitle(", ".join(what if axes else [*what, _kernel_of(data)]))
    if len(axes) == 2:
        dlnjax.plot.heat_map(data, axes[1], axes[0], ax=figure.add_subplot())
        return figure
    left, right = figure.subplots(1, 2)
    if axes:
        name = axes[0]
        dlnjax.plot.effective_rank(data, by=name, ax=left)
        ends = {shown(value).replace("inf", "∞"): data.sel({name: value}) for value in data[name].values}
        dlnjax.plot.effective_rank_violins(ends, ax=right)
        right.set_xlabel(f"{name}, at time {data['time'].values[-1]:g}")
    else:
        dlnjax.plot.effective_rank(data, ax=left)
        dlnjax.plot.singular_values(data, ax=right)
    return figure


def _kernel_of(data: "xarray.Dataset") -> str:
    """The kernel in words: that of all seeds, or of none."""
    kernel = solution_of(data.isel(time=slice(1)), "the sweep").depth
    leaves = jax.tree.leaves(kernel)
    same = all(np.ndim(leaf) == 0 or np.all(leaf == leaf[0]) for leaf in leaves)
    return str(jax.tree.map(lambda leaf: leaf if np.ndim(leaf) == 0 else leaf[0], kernel)) if same else "many depths"
