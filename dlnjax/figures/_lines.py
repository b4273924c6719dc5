"""Figure 3.1: the geodesic between two matrices at several depths, and the printed line of (3.76), which is longer."""

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import closed_form, geodesic, norm
from dlnjax._compile import compiled
from dlnjax.figures._draws import normal_of_each
from dlnjax.figures._figure import Figure, lettered, mean, measured, NAN, Number, shown_depth, verdict
from dlnjax.plot import ellipses, new_figure

A, B = np.diag([4.0, 1.0]), np.array([[2.5, 1.5], [1.5, 2.5]])  # the pair with known lengths at N = 2
# A pair to draw, with condition number 50 and turned by 80 degrees. The eye can tell the two curves apart there.
TURN = np.array([[np.cos(np.pi / 2.25), -np.sin(np.pi / 2.25)], [np.sin(np.pi / 2.25), np.cos(np.pi / 2.25)]])
DRAWN = np.diag([50**0.5, 50**-0.5])
DEPTHS = (2.0, 3.0, np.inf)
COUNT = 7
TIMES = np.linspace(0, 1, COUNT)


def _printed(a, b, depth):
    """The length of the printed line, by Gauss-Legendre quadrature, and points on it."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    line = closed_form.printed_line(a, b, depth)

    def speed(t):
        x, dx = jax.jvp(line, (t,), (jnp.ones_like(t),))
        return norm(x, dx, depth)

    return jax.vmap(speed)((nodes + 1) / 2) @ weights / 2, line(TIMES)


_printed_lines = compiled(jax.vmap(_printed, (0, 0, None)))


def compute(key, seeds: int) -> xarray.Dataset:
    # The pairs are positive definite, so that their polar factors are the same and (3.76) applies.
    factors = normal_of_each(key, 2 * seeds, (2, 2))
    pairs = (factors @ factors.mT + 0.1 * np.eye(2)).reshape(seeds, 2, 2, 2)
    pairs = np.concatenate([[[A, B], [DRAWN, TURN @ DRAWN @ TURN.T]], pairs])

    def at(depth: float) -> tuple[np.ndarray, np.ndarray]:
        # Each pair is computed by itself. In a batch, every pair would take as long as the slowest one.
        lines = [geodesic(jax.device_put(a), jax.device_put(b), depth, throw=False) for a, b in pairs]
        lengths, points = map(np.asarray, _printed_lines(pairs[:, 0], pairs[:, 1], jnp.asarray(depth)))
        curves = np.stack([lines[1].evaluate(TIMES), points[1]])
        return np.stack([[float(line.length) for line in lines], lengths]), curves

    lengths, curves = zip(*map(at, DEPTHS), strict=True)
    cells = ("depth", "curve", "pair")
    return xarray.Dataset(
        {
            "length": (cells, np.stack(lengths), {"long_name": "length, 1/N-normalised"}),
            "x": (("depth", "curve", "t", "row", "column"), np.stack(curves)),
        },
        coords={"depth": list(DEPTHS), "curve": ["geodesic", "printed"], "t": TIMES},
        attrs={
            "pairs": "first diag(4, 1) to [[5/2, 3/2], [3/2, 5/2]]; then the one in x; the others Wishart + 0.1",
            "x": "from diag(sqrt(50), 1/sqrt(50)) to the same turned by 80 degrees",
        },
    )


def _excess(data: xarray.Dataset):
    length = data["length"]
    return (length.sel(curve="printed") / length.sel(curve="geodesic") - 1).isel(pair=slice(2, None))


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 2.7)
    # The words on the right of the curves would touch the axis of the next picture.
    figure.set_layout_engine("constrained", wspace=0.05)
    curves, excesses = figure.subplots(1, 2, width_ratios=(2.6, 1))
    for k, depth in enumerate(data["depth"].values):
        for curve, color, style in (("geodesic", "C0", "-"), ("printed", "C1", "--")):
            ellipses(data["x"].sel(depth=depth, curve=curve).values, ax=curves, row=-k, color=color, linestyle=style)
        true, printed = data["length"].sel(depth=depth).isel(pair=1).values
        curves.text(-0.6, -k, f"$N = {shown_depth(depth)}$", ha="right", va="center")
        over = f"{100 * (printed / true - 1):.1f} % longer"
        curves.text(COUNT - 0.4, -k, over, va="center", color="C1")
    curves.set_title("geodesic (solid) and the line of (3.76) (dashed)")
    excess = 100 * _excess(data).values
    excesses.violinplot(list(excess), showextrema=False, widths=0.7)
    average, error = excess.mean(1), excess.std(1, ddof=1) / np.sqrt(excess.shape[1])
    excesses.errorbar(range(1, len(DEPTHS) + 1), average, 2 * error, fmt="o", color="C0")
    excesses.set_xticks(range(1, len(DEPTHS) + 1), [f"$N = {shown_depth(depth)}$" for depth in data["depth"].values])
    excesses.set(ylabel="excess length, %; bars: 2 s.e.", ylim=(0, None), xlabel="depth")
    excesses.set_title(f"{excess.shape[1]} random pairs")
    return lettered(figure)


def numbers(data: xarray.Dataset) -> list[Number]:
    two = data["length"].sel(depth=2.0).isel(pair=0).values / np.sqrt(2)
    rows = [
        measured("length of the geodesic, N = 2, thesis's units", (float(two[0]), 0.0), "1.374493"),
        measured(
            "length of (3.76), N = 2, thesis's units", (float(two[1]), 0.0), "1.377145", source="a quadrature of (3.76)"
        ),
    ]
    for depth in data["depth"].values:
        excess = _excess(data).sel(depth=depth).values
        # The thesis says this of every pair, so that one pair is enough to refute it.
        said = verdict(bool(np.all(excess <= 1e-6)))
        note = "Theorem 3.4.2 (2) holds only where S_A and S_B commute; elsewhere (3.76) is longer than the geodesic."
        rows.append(Number(f"mean excess of (3.76), N = {depth:g}", "a geodesic: 0", *mean(excess), said, NAN, note))
    return rows


FIGURE = Figure(
    "3.1",
    "Geodesics at several depths, and the printed line, which is not one (beyond the thesis)",
    100,
    compute,
    draw,
    numbers,
    text="(a) The images of the unit circle along the geodesic from diag(7.07, 0.141) to the same turned by 80 "
    "degrees, at three depths, and along the line (3.76) that Theorem 3.4.2 (2) claims to be the geodesic: it is "
    "rounder on the way, and longer. (b) By how much it is longer for random positive definite pairs: always. Ratios "
    "of lengths are the same in the thesis's metric.",
    parameters="d = 2, N = 2, 3, infinity, positive definite pairs W W^T + I/10 with W_ij ~ N(0, 1), 100 pairs",
    counted="random pairs",
    source="Theorem 3.2.3: the distance is sqrt(20 - 2 sqrt(82))",
)
