"""Figure 4.1b: from a small start the largest singular value alone moves."""

import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import Ensemble, gaussian, gradient_flow, MatrixCompletion, RESULTS, Steady, sweep
from dlnjax.figures._figure import Figure, Number, verdict
from dlnjax.plot import new_figure, singular_values

D, STD, HORIZON = 5, 1e-3, 1e5


def compute(key, seeds: int) -> xarray.Dataset:
    # At rest to 1e-4: below that, an explicit solver at rtol 1e-6 leaves its own noise.
    energy, stop = MatrixCompletion.diagonal(D), Steady(1e-4)
    starts = Ensemble(lambda k: gaussian(k, D, STD), key, seeds)
    many = sweep(energy, starts, ts=[0.0, HORIZON], stop=stop, chunk=seeds, max_steps=50_000)
    # The example is the median one: of the seeds, the one that takes the median time to come to rest.
    example = int(np.argsort(np.asarray(many.t_end))[seeds // 2])
    ts = jnp.linspace(0.0, 1.25 * many.t_end[example], 400)
    one = gradient_flow(energy, starts.take(jnp.array([example]))[0], ts=ts, stop=stop)
    return xarray.Dataset(
        {
            "sigma": (("time", "mode"), np.asarray(one.sigma), {"long_name": "singular values of the example"}),
            "start": (("seed", "mode"), np.asarray(many.sigma)[:, 0], {"long_name": "sigma(0) of every seed"}),
            "end": (("seed", "mode"), np.asarray(many.sigma)[:, -1], {"long_name": "sigma at rest of every seed"}),
            "converged": ("seed", np.asarray(many.result == RESULTS.steady), {"long_name": "|dE| <= 1e-4"}),
        },
        coords={"time": ("time", np.asarray(ts), {"long_name": "time of the flow at infinite depth"})},
        attrs={"energy": "sum (X_ii - 1)^2, thesis (4.21)", "depth": "inf", "start": f"X_ij ~ N(0, {STD}^2)"},
    )


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure()
    ax = singular_values(data, ax=figure.subplots())
    ax.set_title(rf"$d = {D}$, $N = \infty$, std $10^{{-3}}$")
    return figure


def numbers(data: xarray.Dataset) -> list[Number]:
    done = data["converged"].values
    growth = (data["end"].values / data["start"].values)[done]
    rows = []
    for mode in range(D):
        ratios = growth[:, mode]
        centre = float(np.median(ratios))
        # The standard error of a median, by the bootstrap.
        draws = np.random.default_rng(0).choice(ratios, (400, len(ratios)))
        error = float(np.median(draws, axis=1).std())
        said, ok = ("moved the most", centre > 100) if mode == 0 else ("lazy", 0.5 < centre < 2)
        rows.append(Number(f"median growth of sigma_{mode + 1}, end over start", said, centre, error, verdict(ok)))
    return rows


FIGURE = Figure("4.1b", "From a small start the largest singular value alone moves", 100, compute, draw, numbers)
