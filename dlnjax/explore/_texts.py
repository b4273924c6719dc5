"""A state as a program in Python and as a line for the shell, which compute the same numbers."""

import math

import numpy as np

from dlnjax.explore._model import GRADIENT, MOST_STEPS, RTOL
from dlnjax.explore._problem import FIRST, target
from dlnjax.explore._state import SEEDS, State, TIMES, written


def as_python(state: State) -> str:
    """A program that computes what the page shows."""
    kernel = f"dln.Imbalanced({written(state.imbalance)})" if state.imbalance else _number(state.depth)
    spread = f"[0.0, *jnp.geomspace({FIRST:g} * t, t, {TIMES - 1})]"
    how = f"rtol={RTOL:g}, stop=dln.Steady({GRADIENT:g}), max_steps={MOST_STEPS}"
    if state.noisy:
        spread, how = (
            f"jnp.linspace(0.0, t, {TIMES})",
            f"noise=dln.Noise(energy_key, {written(state.beta)}, {written(state.dt)})",
        )
    return f"""\
import jax, jax.numpy as jnp, dlnjax as dln

jax.config.update("jax_enable_x64", True)

d, depth, t = {state.d}, {kernel}, {written(state.t)}
start_key, energy_key = jax.random.split(jax.random.key({state.key}))
starts = dln.Ensemble(lambda key: dln.gaussian(key, d, {written(state.std)}), start_key, {SEEDS})
energy = {_energy(state)}
sol = dln.sweep(energy, starts, depth=depth, ts=jnp.array({spread}), {how})
print(sol)

ax = dln.plot.singular_values(sol[{state.seed}])  # the seed that is followed
"""


def as_shell(state: State) -> str:
    """The call of `dlnjax sweep` with the same flows, which prints how they ended."""
    words = [
        "dlnjax sweep",
        f"--d {state.d}",
        f"--std {written(state.std)}",
        f"--t-end {written(state.t)}",
        f"--times {TIMES}",
    ]
    words += [f"--imbalance {written(state.imbalance)}"] if state.imbalance else [f"--depth {written(state.depth)}"]
    words += [f"--seed {state.key}"] if state.key else []
    words += [f"--noise {written(state.beta)} --dt {written(state.dt)}"] if state.noisy else []
    words += [] if state.noisy else [f"--rtol {RTOL:g} --steady {GRADIENT:g} --max-steps {MOST_STEPS}"]
    if state.energy == "decay" and not state.flips:
        words += ["--energy schatten --p 2"]
    elif state.energy != "diagonal" or state.flips:
        labels, mask, weight = target(state)
        words += ["--energy entries", f"--weight {weight:g}"]
        words += [f"--entry {i},{j}={labels[i, j]:g}" for i, j in np.argwhere(mask)]
    return " ".join(words)


def _number(depth: float) -> str:
    return "jnp.inf" if math.isinf(depth) else f"{written(depth)}"


def _energy(state: State) -> str:
    if state.energy == "diagonal" and not state.flips:
        return "dln.MatrixCompletion.diagonal(d)"
    if state.energy == "decay" and not state.flips:
        return "dln.Schatten(2.0)"
    labels, mask, weight = target(state)
    shown = [f"jnp.array({np.where(mask, labels, 0.0).tolist()})", f"jnp.array({mask.astype(int).tolist()})"]
    return f"dln.MatrixCompletion({', '.join(shown)}, weight={weight:g})"
