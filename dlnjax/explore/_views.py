"""The views: each a function from arrays to a drawing."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dlnjax.explore._drawing import (
    band,
    BLUE,
    by_index,
    cells,
    dots,
    Drawing,
    drawing,
    from_zero,
    GREY,
    INK,
    line,
    linear,
    logarithmic,
    Mark,
    ORANGE,
    power_of_ten,
    rule,
    shade,
    signed,
    SUBSCRIPTS,
)
from dlnjax.explore._extras import ELLIPSES, has_network, LAYERS, Line, Network
from dlnjax.explore._model import DEPTHS, EACH, Flows, has_line, Limits, STDS
from dlnjax.explore._problem import target, times
from dlnjax.explore._state import SEEDS, State

# Singular values are drawn down to this part of the largest.
_SMALLEST = 1e-7
# Labels are apart by this part of the axis.
_APART = 0.07
# The height of the row of ellipses above the middle, which keeps the ellipses round in a frame of 266 x 198.
ROW = 0.93
# What stands in a cell of the map where no flow came to rest.
NONE = "\N{EN DASH}"
# Up to this size the entries of X are written in their cells.
_WRITTEN = 5


def _once_known(view: Callable[..., Drawing]) -> Callable[..., Drawing]:
    """The view, which is empty while the followed seed is not known. Its last arguments are flows and state."""

    @functools.wraps(view)
    def shown(*args: Any) -> Drawing:
        *_, flows, state = args
        return view(*args) if flows.known[state.seed] else {}

    return shown


@_once_known
def singular_values(flows: Flows, state: State) -> Drawing:
    """The singular values of the followed seed in time. A click moves the cursor."""
    sigma = flows.sigma[state.seed]
    most = float(np.nanmax(sigma, initial=1e-3))
    least = max(float(np.nanmin(np.where(sigma > 0, sigma, np.nan), initial=most)), _SMALLEST * most)
    marks, place = [rule(flows.ts[state.cursor])], math.inf
    for k, color in enumerate(by_index(state.d)):
        one = np.where(sigma[:, k] >= least, sigma[:, k], np.nan)
        end = math.log(one[-1]) if one[-1] > 0 else math.nan
        # A label that would cover the one above it is left out.
        label = {"label": f"σ{k + 1}".translate(SUBSCRIPTS)} if end < place - _APART * math.log(most / least) else {}
        place = end if label else place
        marks.append(line(flows.ts, one, color, width=2, **label))
    y = logarithmic("singular values σᵢ", least / 1.3, 1.3 * most)
    return drawing(
        f"Singular values of seed {state.seed}",
        _time(state),
        y,
        marks,
        click="cursor",
        times=flows.ts.tolist(),
        note="from dark to light by index; click to move the time",
    )


def matrix(flows: Flows, state: State) -> Drawing:
    """X at the cursor. Framed entries are seen by the energy; a click switches one."""
    x, (labels, mask, _) = flows.x[state.seed, state.cursor], target(state)
    most = max(1.0, float(np.max(np.nan_to_num(np.abs(x)))))
    # 0.0 is added to make 0 of -0.
    two_digits = lambda v: f"{round(float(v), 2) + 0.0:.2f}".replace("-", "−")
    shown = lambda v: two_digits(v) if state.d <= _WRITTEN and math.isfinite(v) else ""
    written = [[shown(v) for v in row] for row in x]
    seen = lambda i, j: f"wanted {labels[i, j]:g}" if mask[i, j] else "not seen"
    hints = [[f"X{i + 1},{j + 1} = {x[i, j]:.4g}, {seen(i, j)}" for j in range(state.d)] for i in range(state.d)]
    pale = (1 - np.abs(np.nan_to_num(x)) / most).tolist()
    mark = cells(signed(x, most), written, framed=mask.tolist(), hints=hints, values=pale, light=0.4)
    return drawing(
        f"X at t = {flows.ts[state.cursor]:.3g}",
        linear("column", -0.5, state.d - 0.5, _indices(state.d)),
        linear("row", -0.5, 0.5, _indices(state.d)) | {"low": state.d - 0.5, "high": -0.5},
        [mark],
        click="mask",
        note=f"blue: up to {most:.3g}, orange: to −{most:.3g}; framed: seen by the energy; click to switch an entry",
    )


def _indices(d: int) -> list[tuple[float, str]]:
    return [(float(k), str(k + 1)) for k in range(0, d, 1 if d <= 10 else 3)]


@_once_known
def effective_rank(flows: Flows, state: State) -> Drawing:
    """The effective rank of all seeds: their mean, the bands of 50 and 90 % of them, and each. A click follows one."""
    rank, failed = flows.rank[flows.known], int(flows.failed.sum())
    seeds = np.flatnonzero(flows.known)
    # What a failed flow repeats is no state of these times.
    good = flows.rank[flows.known & ~flows.failed]
    marks: list[Mark] = []
    if len(good) > 1:
        for low, high in ((5, 95), (25, 75)):
            marks.append(band(flows.ts, np.percentile(good, low, axis=0), np.percentile(good, high, axis=0), BLUE))
    marks += [
        line(flows.ts, one, BLUE, width=0.5, opacity=0.3, seed=int(k)) for k, one in zip(seeds, rank, strict=True)
    ]
    if len(good):
        marks.append(line(flows.ts, good.mean(axis=0), INK, width=2))
    marks.append(line(flows.ts, flows.rank[state.seed], ORANGE, width=2.5))
    marks.append(rule(flows.ts[state.cursor]))
    shown = f"{len(rank)} of {SEEDS} seeds" if len(rank) < SEEDS else f"{SEEDS} seeds"
    left_out = f", without {failed} that ended before" if failed else ""
    return drawing(
        f"Effective rank of {shown}",
        _time(state),
        linear("effective rank", 0.9, state.d + 0.1),
        marks,
        click="seed",
        note=f"black: mean; bands: 50 and 90 %{left_out}; orange: the seed that is followed; click to follow another",
    )


@_once_known
def plane(flows: Flows, state: State) -> Drawing:
    """At d = 2 the paths of all seeds in the plane of (X12, X21), with the hyperbola of rank one."""
    if state.d != 2:
        return {}
    x = flows.x[flows.known]
    own = flows.x[state.seed]
    reach = 1.1 * max(1.7, min(4.0, float(np.nanmax(np.abs(x[:, :, [0, 1], [1, 0]]), initial=1.5))))
    labels, mask, _ = target(state)
    # On the solutions the diagonal is that of the labels.
    diagonal = np.where(mask.diagonal(), labels.diagonal(), own[state.cursor].diagonal())
    product = float(np.prod(diagonal))
    marks: list[Mark] = [line(one[:, 0, 1], one[:, 1, 0], BLUE, width=0.6, opacity=0.4) for one in x]
    if product and math.isfinite(product):
        away = np.geomspace(abs(product) / reach / 1.5, 1.5 * reach, 60)
        marks += [line(s * away, s * product / away, INK, width=1.2, dash="5 3") for s in (1, -1)]
    marks.append(dots(x[:, -1, 0, 1], x[:, -1, 1, 0], BLUE, size=2))
    marks.append(line(own[:, 0, 1], own[:, 1, 0], ORANGE, width=2))
    marks.append(dots(own[[state.cursor], 0, 1], own[[state.cursor], 1, 0], ORANGE, size=5))
    return drawing(
        "The plane of the off-diagonal",
        linear("X₁₂", -reach, reach),
        linear("X₂₁", -reach, reach),
        marks,
        note=f"dashed: rank one, X₁₂ X₂₁ = X₁₁ X₂₂ = {product:.3g}; dots: the ends",
        square=True,
    )


@_once_known
def depth_map(limits: Limits, flows: Flows, state: State) -> Drawing:
    """The effective rank of the limits against the depth and the size of the start. A click chooses both.

    Where no flow came to rest there is no limit, and a cell has a dash. The note counts the flows that did not.
    """
    found, known = limits.rank, limits.at_rest >= 0
    low, high = (float(np.nanmin(found)), float(np.nanmax(found))) if np.isfinite(found).any() else (1.0, state.d)
    written = lambda mean, n: "" if n < 0 else NONE if n == 0 else f"{mean:.2f}"
    texts = [[written(*each) for each in zip(*row, strict=True)] for row in zip(found, limits.at_rest, strict=True)]
    missing, of = int((EACH - limits.at_rest[known]).sum()), EACH * int(known.sum())
    restless = f"; {missing} of {of} flows did not come to rest, and do not count" if missing else ""
    mark = cells(shade(found, low, high), texts, light=0.55, values=_share(found, low, high))
    row = float(np.interp(-1 / state.depth, [-1 / depth for depth in DEPTHS], np.arange(len(DEPTHS))))
    column = float(np.interp(np.log(state.std), np.log(STDS), np.arange(len(STDS))))
    x = linear("std of the start", -0.5, len(STDS) - 0.5, [(float(k), _short(std)) for k, std in enumerate(STDS)])
    y = linear("depth N", -0.5, 0.5, [(float(k), shown_depth(depth)) for k, depth in enumerate(DEPTHS)])
    return drawing(
        "Effective rank of the limit",
        x,
        y | {"low": len(DEPTHS) - 0.5, "high": -0.5},
        [mark, dots([column], [row], ORANGE, size=15, ring=True)],
        click="map",
        values={"depth": [shown_depth(depth) for depth in DEPTHS], "std": [f"{std:g}" for std in STDS]},
        note=f"means of {EACH} starts without noise or imbalance{restless}; click to go there",
    )


def _share(values: np.ndarray, low: float, high: float) -> list[list[float]]:
    return np.nan_to_num((values - low) / (high - low if high > low else 1.0), nan=1.0).round(2).tolist()


def _short(std: float) -> str:
    k = math.log10(std)
    return power_of_ten(round(k)) if abs(k - round(k)) < 1e-9 else ""


def shown_depth(depth: float) -> str:
    return "∞" if math.isinf(depth) else f"{depth:.4g}"


@_once_known
def speed_law(flows: Flows, state: State) -> Drawing:
    """The speed of a singular value over the force on it, lambda(s, s) = s^(2 - 2/N): the law, and the followed seed.

    The dots are measured: the change of a singular value over the two times around the cursor, over the integral of
    the force -u^T dE v on it by Simpson's rule.
    """
    low, high = 1e-3, 30.0
    s = np.geomspace(low, high, 60)
    marks: list[Mark] = []
    for depth in (1.0, 2.0, 3.0, math.inf):
        marks.append(line(s, s ** (2 - 2 / depth), GREY, width=0.8, label=shown_depth(depth)))
    marks.append(line(s, law(s, state), BLUE, width=2.5))
    size, speed = measured_speed(flows, state)
    colors = [color for color, v in zip(by_index(state.d), speed, strict=True) if math.isfinite(v)]
    shown = np.isfinite(speed)
    marks.append(dots(size[shown], speed[shown], colors, size=4))  # pyright: ignore[reportArgumentType]
    measured = "dots: measured around the cursor, where a value moves"
    if state.noisy:
        measured = "nothing is measured on paths with noise"
    what = f"g = {state.imbalance:g}" if state.imbalance else f"N = {shown_depth(state.depth)}"
    return drawing(
        f"Speed law at {what}",
        logarithmic("singular value σ", low, high),
        logarithmic("speed over force, λ(σ, σ)", 1e-5, high**2),
        marks,
        note=f"grey: N = 1, 2, 3, ∞; {measured}",
    )


def law(s: np.ndarray, state: State) -> np.ndarray:
    """lambda(s, s): s^(2 - 2/N), and sqrt(s^2 + g^2/4) for two layers of imbalance g."""
    return np.sqrt(s**2 + state.imbalance**2 / 4) if state.imbalance else s ** (2 - 2 / state.depth)


def measured_speed(flows: Flows, state: State) -> tuple[np.ndarray, np.ndarray]:
    """(the singular values at the cursor, their speed over the force on them, NaN where they hardly move)."""
    nothing = np.full(state.d, np.nan)
    at = min(max(state.cursor, 1), len(flows.ts) - 2)
    x, t = flows.x[state.seed, at - 1 : at + 2], flows.ts[at - 1 : at + 2]
    if state.noisy or not np.isfinite(x).all():
        return nothing, nothing
    u, sigma, v = np.linalg.svd(x)
    labels, mask, weight = target(state)
    force = -np.einsum("tki,tkl,til->ti", u, 2 * weight * np.where(mask, x - labels, 0.0), v)
    # The parabola through the three points, whose gaps differ.
    h, k = t[1] - t[0], t[2] - t[1]
    weights = (h + k) / 6 * np.array([2 - k / h, (h + k) ** 2 / (h * k), 2 - h / k])
    moved = sigma[2] - sigma[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = moved / (weights @ force)
    # A value that turns back has passed through 0, or has changed places with another.
    onward = (sigma[2] - sigma[1]) * (sigma[1] - sigma[0]) > 0
    return sigma[1], np.where(onward & (np.abs(moved) > 0.01 * sigma[1]) & (speed > 0), speed, np.nan)


def _time(state: State) -> dict:
    ts = times(state)
    label = "time t of the 1/N-normalised flow"
    return linear(label, 0.0, state.t) if state.noisy else from_zero(label, ts[1], ts[-1])


def summary(flows: Flows, state: State) -> dict[str, str]:
    """What is said in words: the share of the seeds at rest, how the followed one ended, and its numbers."""
    if not flows.known[state.seed]:
        return {}
    known = int(flows.known.sum())
    at_rest = int((flows.result == "steady").sum())
    rank, energy = flows.rank[state.seed, state.cursor], flows.energy[state.seed, state.cursor]
    failed = sorted(set(flows.result[flows.known]) - {"steady", "successful"})
    said = [f"{int((flows.result == name).sum())} ended as {name.replace('_', ' ')}" for name in failed]
    rest = f"{at_rest} of {known} seeds at rest" if not state.noisy else f"{known} paths with noise"
    return {
        "rest": ", ".join([rest, *said]),
        "depth": f"N = {shown_depth(state.depth)}",
        "seed": f"seed {state.seed}: {flows.result[state.seed].replace('_', ' ') or '...'}",
        "numbers": f"effective rank {rank:.3f}, E = {energy:.3g} at t = {flows.ts[state.cursor]:.3g}",
    }


def stopped(flows: Flows, state: State) -> str:
    """Why paths with noise stand still from some time on, and what to do; empty where none does."""
    if not (flows.result == "dt_too_long").any():
        return ""
    return (
        f"Some paths stop, as the step of the noise is too long for them: {state.dt:.3g}, a part of t end. Lower t end."
    )


@_once_known
def network(found: Network | None, flows: Flows, state: State) -> Drawing:
    """The singular values of a trained network as dots, on those of the flow as lines."""
    if not state.step:
        return {}
    below = singular_values(flows, state)
    note = f"lines: the flow; dots: gradient descent of step h = {state.step:g}, at t = N n h"
    marks = [mark for mark in below["marks"] if mark["kind"] == "line"]
    if found is not None:
        shown = found.ts <= state.t
        for k, color in enumerate(by_index(state.d)):
            marks.append(dots(found.ts[shown], found.sigma[shown, k], color, size=2.5))
        if found.failed:
            note = f"after {found.steps[-1]} steps of h = {state.step:g} training left the finite numbers: lower h"
    elif not has_network(state):
        note = f"a network has a whole number of layers, here up to {LAYERS}, and is trained without noise"
    title = f"A network of {shown_depth(state.depth)} layers beside the flow"
    return drawing(title, below["x"], below["y"], marks, note=note)


@_once_known
def geodesic(found: Line | None, flows: Flows, state: State) -> Drawing:
    """At d = 2 the ellipses of a geodesic from the start to the cursor, those of (3.76), and both lengths."""
    if not has_line(state):
        return {}
    marks, note = [], "..."
    if found is not None:
        size = 0.45 / max(np.linalg.norm(found.points, 2, axis=(1, 2)).max(), 1e-300)
        for k in range(ELLIPSES):
            marks += _ellipse(size * found.points[k], k, ROW, BLUE) + _ellipse(size * found.printed[k], k, -ROW, GREY)
        lengths = f"length {found.length:.5g}; below: (3.76), {found.printed_length:.5g}"
        note = f"above: geodesic between positive factors, {lengths}"
        if not found.arrived:
            note = "the search did not arrive: the ends are too ill-conditioned"
    ticks = [(0.0, "0"), ((ELLIPSES - 1) / 2, "1/2"), (ELLIPSES - 1.0, "1")]
    x, y = linear("along the line", -0.6, ELLIPSES - 0.4, ticks), linear("", -2 * ROW, 2 * ROW, [])
    return drawing("Geodesic from the start to the cursor", x, y, marks, note=note)


def _ellipse(x: np.ndarray, at: int, row: float, color: str) -> list[Mark]:
    """The image of the unit circle under a matrix, and that of the first axis."""
    angle = np.linspace(0, 2 * np.pi, 60)
    outline = x @ np.stack([np.cos(angle), np.sin(angle)])
    axis = np.stack([np.zeros(2), x[:, 0]], axis=1)
    return [line(at + part[0], row + part[1], color, width=1.8) for part in (outline, axis)]
