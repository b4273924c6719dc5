"""What a picture reads: the xarray form of flows, in one form, however it was made, cut, stored or turned."""

import re
from typing import Any, TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from dlnjax._loaded import result_of
from dlnjax._results import RESULTS
from dlnjax._show import failures, Shown

if TYPE_CHECKING:
    import xarray

# The dimensions of one flow, and that of the seeds.
OWN = ("seed", "time", "mode", "row", "column")


def flows_of(sol: "Shown | xarray.Dataset", name: str) -> "xarray.Dataset":
    """The xarray form of flows that have the array `name`, with the axes of a grid first, and its own in their order.

    Seeds of several axes, which `jax.vmap` makes, are one axis.
    """
    data: Any = sol if hasattr(sol, "data_vars") else getattr(sol, "to_xarray", lambda: ())()
    if name not in data:
        raise TypeError(
            f"sol must be a solution, such as a FlowSolution, or the xarray form of one with {name}, "
            f"got {type(sol).__name__}."
        )
    if lead := [dim for dim in data.dims if re.fullmatch(r"seed_\d+", str(dim))]:
        data = data.stack(seed=lead, create_index=False)
    return data.transpose(..., *OWN, missing_dims="ignore")


def times_of(data: "xarray.Dataset") -> np.ndarray:
    """The times of the flows of `data`, which are no coordinate of it where each seed has its own."""
    if "time" not in data.dims:
        return np.zeros(1)
    if "time" in data.coords:
        return data["time"].values
    rows = data["ts"].values.reshape(-1, data.sizes["time"])
    if np.any(rows != rows[:1]):
        raise ValueError(f"these {len(rows)} solutions have times of their own, and no common axis: draw each alone.")
    return rows[0]


def at_time(data: "xarray.Dataset", name: str, time: float | None) -> "xarray.DataArray":
    """The array `name` at the saved time nearest to `time`, or at the last of all; whole where it has no times."""
    values = data[name]
    if "time" not in values.dims:
        return values
    if time is None:
        return values.isel(time=-1)
    if not np.isfinite(time):
        raise ValueError(f"time must be a finite number, got {time}.")
    return values.isel(time=int(np.argmin(np.abs(times_of(data) - time))))


def results_of(*each: "xarray.Dataset") -> RESULTS | None:
    """The codes of all seeds of these datasets, of which one in a folder has them as numbers."""
    codes = [_known(data["result"]) for data in each if "result" in data]
    return RESULTS(np.concatenate(codes)) if codes else None


def _known(result: "xarray.DataArray") -> np.ndarray:
    """The codes of the seeds that have one. `where` of xarray leaves NaN, and makes floats of numbers."""
    import xarray

    known = result.values[result.notnull().values]
    known = known.astype(int) if known.dtype.kind == "f" else known
    return np.ravel(result_of(xarray.DataArray(known, attrs=result.attrs), "the dataset").code)


def say_failures(ax: Axes, result: RESULTS | None) -> None:
    """Say at the top right of the axes what has failed, after what was said there before."""
    said = [] if result is None else [failures(result.names)]
    said = [ax.get_title(loc="right"), *said]
    ax.set_title("; ".join(dict.fromkeys(filter(None, said))), loc="right", fontsize=7)
