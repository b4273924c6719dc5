"""What a flow returns."""

import math
import os
from typing import Any, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dlnjax._checks import as_path
from dlnjax._geometry.spectrum import effective_rank_or_nan
from dlnjax._results import NAMES, result_counts, result_names, RESULTS
from dlnjax._show import Curves, Shown
from dlnjax._svd import SVD
from dlnjax._sweeps.folder import open_folder

if TYPE_CHECKING:
    import xarray

_FORMAT = "dlnjax.FlowSolution/2"
FLOW_TIME = r"time $t$ (1/N-normalised flow)"
_CONVENTION = "1/N-normalised flow: time here = thesis time * N at finite depth N (2.9), thesis time at infinite depth"


class FlowSolution(Shown):
    """A flow, saved at `ts`. One matrix has time first (`ts d`), a sweep has the seed first (`n ts d`).

    **Attributes:**

    - `ts`: the times, `ts`, in units of the 1/N-normalised flow (see `gradient_flow`).
    - `sigma`: singular values, descending, `[n] ts d`.
    - `svd`: the `SVD` at each time, `[n] ts d d`; `x`: the matrices. Not kept where `observe` was given.
    - `energy`: E(X), `[n] ts`; not kept where `observe` was given.
    - `effective_rank`: (4.23), `[n] ts`.
    - `observed`: what `observe` returned, `[n] ts ...`; None without it.
    - `final`: the last good state, an `SVD`.
    - `t_end`: the time of it, `[n]`. Entries of `ts` after `t_end` repeat it.
    - `result`: a code of `RESULTS` for each seed.
    - `stats`: `steps`, `rejected`: accepted and rejected steps of the solver; `evaluations` of the right-hand side (0
      for a solver that does not say), `[n]`.

    **Example:**

        >>> energy, x0 = dln.MatrixCompletion.diagonal(2), jnp.array([[0.2, 0.1], [-0.1, 0.3]])
        >>> sol = dln.gradient_flow(energy, x0, ts=[0.0, 2.0, 20.0], stop=dln.Steady(1e-6))
        >>> sol.sigma.shape, sol.x.shape, sol.energy.shape
        ((3, 2), (3, 2, 2), (3,))
        >>> dict(sol.to_xarray().sizes)
        {'time': 3, 'mode': 2, 'row': 2, 'column': 2}
    """

    ts: Float[Array, " ts"]
    sigma: Float[Array, "*n ts d"]
    final: SVD
    t_end: Float[Array, "*n"]
    result: RESULTS
    stats: dict[str, Int[Array, "*n"]]
    observed: Any
    _svd: SVD | None
    _energy: Float[Array, "*n ts"] | None

    def _kept(self, value, name: str):
        if value is None:
            raise AttributeError(
                f"{name} was not saved, because observe was given: see .observed, .sigma and .final, "
                "or return what you need from observe."
            )
        return value

    @property
    def svd(self) -> SVD:
        return self._kept(self._svd, "svd")

    @property
    def x(self) -> Float[Array, "*n ts d d"]:
        return self.svd.matrix

    @property
    def energy(self) -> Float[Array, "*n ts"]:
        return self._kept(self._energy, "energy")

    @property
    def effective_rank(self) -> Float[Array, "*n ts"]:
        """(4.23); NaN where a start was NaN, or the state is the zero matrix."""
        return effective_rank_or_nan(self.sigma)

    def to_numpy(self) -> dict[str, Any]:
        """Everything as NumPy arrays, by name; `result` as the names of the codes."""
        out = {
            "ts": self.ts,
            "sigma": self.sigma,
            "effective_rank": self.effective_rank,
            "t_end": self.t_end,
            **self.stats,
        }
        if self._svd is not None:
            out |= {"u": self._svd.u, "v": self._svd.v, "energy": self._energy}
        if self.observed is not None:
            leaves = jax.tree_util.tree_flatten_with_path(self.observed)[0]
            out |= {"observed" + jax.tree_util.keystr(path): leaf for path, leaf in leaves}
        out |= {"final_u": self.final.u, "final_sigma": self.final.sigma, "final_v": self.final.v}
        out = {name: np.asarray(value) for name, value in out.items()}
        return out | {"result": np.asarray(result_names(self.result))}

    def to_xarray(self) -> "xarray.Dataset":
        """An xarray `Dataset` with named dimensions, and units or conventions in the attributes.

        Dimensions: `seed` (of a sweep), `time`, `mode` (singular values, descending), `row` and `column` of the frames.
        """
        import xarray

        arrays = self.to_numpy()
        seeds = ("seed",) if np.ndim(self.t_end) else ()
        frame, column = ("row", "mode"), ("column", "mode")
        dims = {
            "sigma": (*seeds, "time", "mode"),
            "effective_rank": (*seeds, "time"),
            "energy": (*seeds, "time"),
            "u": (*seeds, "time", *frame),
            "v": (*seeds, "time", *column),
            "final_u": (*seeds, *frame),
            "final_sigma": (*seeds, "mode"),
            "final_v": (*seeds, *column),
            "t_end": seeds,
            "steps": seeds,
            "rejected": seeds,
            "evaluations": seeds,
            "result": seeds,
        }
        notes = {
            "sigma": "singular values, descending",
            "effective_rank": "exp of the entropy of sigma/sum(sigma), thesis (4.23); 1 to d",
            "energy": "E(X), in the units of the energy given",
            "u": "left singular vectors, X = u diag(sigma) v^T",
            "v": "right singular vectors, X = u diag(sigma) v^T",
            "t_end": "time of the last good state; later times repeat it",
            "result": "how the flow ended, a code of dlnjax.RESULTS",
            "steps": "accepted steps of the solver",
            "rejected": "rejected steps of the solver",
            "evaluations": "evaluations of the right-hand side; of a solver that does not say, 0",
        }
        data = {}
        for name, value in arrays.items():
            if name == "ts":
                continue
            axes = dims.get(name)
            if axes is None:
                extra = value.ndim - len(seeds) - 1
                axes = (*seeds, "time", *(f"{name}_{k}" for k in range(extra)))
            data[name] = (axes, value, {"long_name": notes[name]} if name in notes else {})
        time = ("time", arrays["ts"], {"long_name": "time", "units": "1", "convention": _CONVENTION})
        return xarray.Dataset(data, coords={"time": time}, attrs={"format": _FORMAT, "convention": _CONVENTION})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one netCDF file, readable by any netCDF tool and by `dlnjax.load`.

        **Raises:** `ValueError` for a path that cannot be written, or an `observe` that returned more than one array.
        """
        path = as_path("path", path)
        if self.observed is not None and not eqx.is_array(self.observed):
            raise ValueError("save needs observe to return one array, not a tuple or dict: use to_numpy or to_xarray.")
        try:
            self.to_xarray().to_netcdf(path, engine="scipy", format="NETCDF3_64BIT")
        except OSError as error:
            raise ValueError(f"cannot write {str(path)!r}: {error}. Name a file in a folder that exists.") from error

    def _curves(self) -> Curves:
        return Curves.of(self.ts, self.sigma, FLOW_TIME)

    def _describe(self) -> str:
        return _describe(self)


def load(path: str | os.PathLike[str]) -> FlowSolution:
    """A solution written by `FlowSolution.save`, or the folder of a finished `sweep`. Reading runs nothing from it.

    **Raises:** `ValueError` if it is missing, is no such solution, or is a sweep that has not come to its end.

    **Example:**

        >>> energy, x0 = dln.MatrixCompletion.diagonal(2), jnp.array([[0.2, 0.1], [-0.1, 0.3]])
        >>> sol = dln.gradient_flow(energy, x0, ts=[0.0, 2.0, 20.0], stop=dln.Steady(1e-6))
        >>> sol.save("flow.nc")
        >>> bool(jnp.all(dln.load("flow.nc").x == sol.x))
        True
    """
    import xarray

    path = as_path("path", path)
    try:
        with open_folder(path) if path.is_dir() else xarray.open_dataset(path, engine="scipy") as dataset:
            data = dataset.load()
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"cannot read {str(path)!r} as a saved solution: {error}") from error
    if data.attrs.get("format") != _FORMAT:
        raise ValueError(f"{str(path)!r} is no {_FORMAT} file: it says {data.attrs.get('format')!r}.")
    if any(str(name).startswith("observed") and name != "observed" for name in data):
        raise ValueError(f"{str(path)!r} holds several observed arrays, which only xarray can open: xarray.open_zarr.")
    get = lambda name: jnp.asarray(data[name].values)
    codes = data["result"].values
    if codes.dtype.kind != "i":
        names = [str(name) for name in np.atleast_1d(data["result"].astype(str).values)]
        if unknown := set(names) - set(NAMES):
            raise ValueError(f"{str(path)!r} has results that are no codes of RESULTS: {', '.join(sorted(unknown))}.")
        codes = np.reshape(RESULTS.named(names).code, codes.shape)
    result = RESULTS(jnp.asarray(codes, jnp.int32))
    kept = "u" in data
    return FlowSolution(
        ts=get("time"),
        sigma=get("sigma"),
        final=SVD(get("final_u"), get("final_sigma"), get("final_v")),
        t_end=get("t_end"),
        result=result,
        stats={name: get(name) for name in ("steps", "rejected", "evaluations")},
        observed=get("observed") if "observed" in data else None,
        _svd=SVD(get("u"), get("sigma"), get("v")) if kept else None,
        _energy=get("energy") if kept else None,
    )


def _describe(sol: FlowSolution) -> str:
    *seeds, times, d = sol.sigma.shape
    many = bool(seeds)
    ts, sigma = np.asarray(sol.ts).reshape(-1, times)[0], np.asarray(sol.sigma)
    rank = np.asarray(sol.effective_rank)
    steps = np.asarray(sol.stats["steps"])

    def change(values, summarise, how):
        first, last = values[..., 0], values[..., -1]
        tail = f"  ({how})" if many else ""
        of = lambda values: summarise(values) if np.any(np.isfinite(values)) else np.nan
        return f"{of(first):.6g} -> {of(last):.6g}{tail}"

    head = f"FlowSolution: {math.prod(seeds)} seeds, " if many else "FlowSolution: "
    lines = [f"{head}d = {d}, {times} times from {ts[0]:.6g} to {ts[-1]:.6g}"]
    if sol._energy is not None:
        lines.append("  energy          " + change(np.asarray(sol.energy), np.nanmedian, "median"))
    lines.append("  effective rank  " + change(rank, np.nanmean, "mean"))
    lines.append("  largest sigma   " + change(sigma.max(-1), np.nanmedian, "median"))
    if many:
        lines.append(f"  ended           {result_counts(sol.result)}")
        lines.append(f"  steps           {steps.mean():.0f} mean, {steps.max()} max")
    else:
        lines.append(f"  ended           {result_counts(sol.result)} at t = {float(sol.t_end):.6g}, {int(steps)} steps")
    return "\n".join(lines)
