"""`dlnjax plot`: draws figures again from their data, and the sweep in a folder."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dlnjax.plot
from dlnjax._commands._common import Refused
from dlnjax._sweeps.folder import open_folder
from dlnjax.figures import _run, FIGURES


def plot(args: argparse.Namespace) -> int:
    """Draw each figure and each sweep that was named, and write it to the folder of its data."""
    sweeps = [target for target in args.data if (target / "call.json").is_file()]
    args.data = [target for target in args.data if target not in sweeps]
    for folder in sweeps:
        with _refusals(folder):
            drawn = _draw_sweep(folder)
        print(drawn)
    paths = list(dict.fromkeys(path for target in args.data for path in _find(target)))
    for path in paths:
        with _refusals(path.parent):
            drawn = _run.draw(_run.read(path))
        print(drawn)
    return 0


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """Refuse what cannot be read or drawn. Printing stands outside, since a broken pipe is an `OSError` too."""
    try:
        yield
    except (ImportError, ValueError) as error:
        raise Refused(str(error)) from error
    except OSError as error:
        raise Refused(f"cannot draw into {folder}: {error.strerror or error}.") from error


def _find(target: Path) -> list[Path]:
    """The data that `target` names: a file, a folder, or a figure or a group in a folder, `out/4.2a` or `out/4.2`."""
    if target.is_file():
        return [target]
    folder, wanted = (target, None) if target.is_dir() else (target.parent, [target.name])
    there = {path.stem: path for path in sorted(folder.glob("*.nc"))}
    if not there:
        raise Refused(_nothing_at(target))
    try:
        return [there[name] for name in _run.choose(wanted, there)]
    except KeyError as error:
        raise Refused(f"there is no data for {target}. In {folder} there are: {', '.join(there)}.") from error


def _nothing_at(target: Path) -> str:
    """What was looked for at `target`, which is empty or does not exist, and how to compute it."""
    try:
        _run.choose([target.name], FIGURES)
        folder = target.parent
    except KeyError:
        folder = target
    found = f"{target} is a folder without data" if target.is_dir() else f"there is no data at {target}"
    return (
        f"{found}: expected a figure (out/4.2a), a group (out/4.2), a file (out/4.2a.nc), a folder of figures or of a "
        f"sweep. To compute figures: dlnjax reproduce --out {folder}; a sweep: dlnjax sweep --out {folder}"
    )


def _draw_sweep(folder: Path) -> Path:
    """Draw a finished sweep, as `sweep.png` and `sweep.svg` in its folder."""
    stem = folder / "sweep"
    with dlnjax.plot.style():
        dlnjax.plot.save(dlnjax.plot.sweep(open_folder(folder)), stem)
    return stem.with_suffix(".png")
