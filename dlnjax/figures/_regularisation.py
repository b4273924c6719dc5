"""Figure 4.5b: the diagonal completion with and without the entropy, read at a time, for it has no equilibrium."""

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import FreeEnergy, gaussian, MatrixCompletion, sweep
from dlnjax.figures._figure import Figure, mean, measured, Number, verdict
from dlnjax.figures._shapes import sigma_of, times
from dlnjax.plot import effective_rank_violins, new_figure

BETA, T = 20.0, 100.0
STDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def compute(key, seeds: int) -> xarray.Dataset:
    entries = jax.vmap(gaussian, (0, None, None))(jax.random.split(key, seeds), 2, 1.0)
    starts = (jnp.asarray(STDS)[:, None, None, None] * entries).reshape(-1, 2, 2)
    plain = MatrixCompletion.diagonal(2)
    ts = times(1.0, 2e3, T)
    flows = [sweep(energy, starts, ts=ts, observe=sigma_of) for energy in (plain, FreeEnergy(plain, BETA))]
    ranks = [np.asarray(sol.effective_rank).reshape(len(STDS), seeds, len(ts)) for sol in flows]
    return xarray.Dataset(
        {"effective_rank": (("entropy", "std", "seed", "time"), np.stack(ranks))},
        coords={
            "entropy": ("entropy", [0, 1], {"long_name": "0 without, 1 with -S/beta"}),
            "std": ("std", list(STDS), {"long_name": "standard deviation of the entries of the start"}),
            "time": ("time", ts, {"long_name": "time of the flow at infinite depth"}),
        },
        attrs={"energy": "(4.21) and (4.21) - S/beta", "beta": BETA, "depth": "inf", "start": "X_ij ~ N(0, std^2)"},
    )
