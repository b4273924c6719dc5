"""How a flow, or the search for a geodesic, can end."""

import equinox as eqx
import numpy as np


class RESULTS(eqx.Enumeration):
    """Result codes: numerical failure is data. Each code prints as a sentence that says what to do.

    **Example:**

        >>> energy, x0 = dln.MatrixCompletion.diagonal(2), jnp.array([[0.2, 0.1], [-0.1, 0.3]])
        >>> sol = dln.gradient_flow(energy, x0, ts=[0.0, 2.0, 20.0], stop=dln.Steady(1e-6))
        >>> bool(sol.result == dln.RESULTS.steady)
        True
        >>> print(dln.RESULTS[sol.result])
        The gradient fell below the tolerance of `Steady`; later times repeat that state.
    """

    successful = "The flow reached the last of `ts`."
    steady = "The gradient fell below the tolerance of `Steady`; later times repeat that state."
    max_steps_reached = (
        "The step limit came first. Raise `max_steps`, loosen `rtol`, or pass stop=dlnjax.Steady(...) "
        "if the flow has long converged. The last good state and its time are in the solution."
    )
    diverged = (
        "The flow blew up in finite time: is the energy bounded below? Or the geodesic left the range of the floats. "
        "The last good state and its time, `t_end`, are in the solution."
    )
    rank_lost = (
        "A singular value reached zero, where the geometry of depth > 1 ends. "
        "The last good state and its time are in the solution; depth = 1 alone flows through."
    )
    non_finite = (
        "The start, or the energy's gradient along the way, was NaN or infinite. Check both there: "
        "the last good state, if any, and its time are in the solution. In `train`, lower the learning rate."
    )
    not_arrived = (
        "The search for a geodesic did not come within 1e-8 of the end: `endpoint_error` says how near. "
        "Go through a matrix in between, or loosen what is asked of endpoints as ill-conditioned as these."
    )
    other_component = (
        "The endpoints have determinants of opposite sign, or one is singular: no path of full rank joins them. "
        "Change the sign of one row of one of them, or choose endpoints of full rank."
    )


NAMES = [
    *("successful", "steady", "max_steps_reached", "diverged", "rank_lost", "non_finite"),
    *("not_arrived", "other_component"),
]


def code_of(*cases) -> RESULTS:
    """The code of the first (condition, code) that is met; successful if none is."""
    code = RESULTS.successful
    for condition, case in reversed(cases):
        code = RESULTS.where(condition, case, code)
    return code


def result_names(result: RESULTS):
    """The names of the codes, an array of strings of the shape of `result`."""
    return np.asarray(NAMES)[np.asarray(result._value)]


def result_counts(result: RESULTS) -> str:
    """The name of one code, or of many how often each came."""
    if np.ndim(result._value) == 0:
        return str(result_names(result))
    names, counts = np.unique(result_names(result), return_counts=True)
    return ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))
