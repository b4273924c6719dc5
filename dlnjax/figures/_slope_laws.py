"""The slope of the limiting effective rank against d as d grows, where it is derived (figure 6.5)."""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.integrate import simpson, solve_ivp

ANGLES = (np.arange(2000) + 0.5) * np.pi / 2000
# log tau of `slope_at_depth_two`. Beyond, the integrand is below 1e-9 of its largest value.
LOGS = np.linspace(-25.0, 25.0, 2501)


def slope_of(sigma: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"] | float) -> float:
    """The effective rank over d of singular values with this density."""
    share = np.broadcast_to(weights, sigma.shape) / np.sum(np.broadcast_to(weights, sigma.shape))
    mean = np.sum(share * sigma)
    return float(np.exp(np.log(mean) - np.sum(share * sigma * np.log(sigma)) / mean))


def quarter_circle() -> tuple[np.ndarray, np.ndarray]:
    """(singular values of a start with independent entries of variance 1/d as d grows, their weights)."""
    half = ANGLES / 2
    return 2 * np.sin(half), np.cos(half) ** 2


def orthogonal_law(depth: float) -> Float[np.ndarray, " n"]:
    """The singular values of the limits of orthogonal starts as d grows, at the angles of the start's eigenvalues.

    The flow of the averaged diagonal stays among the functions of the start, which commute. An eigenvalue z = x + i y,
    from exp(i t), then moves by z' = |z|^(2-2/N), and keeps y. The flow ends where the mean of x is 1.
    """
    y = np.sin(ANGLES)
    velocity = lambda time, x: (x**2 + y**2) ** (1 - 1 / depth)
    arrived: Any = lambda time, x: x.mean() - 1
    arrived.terminal = True
    options = {"events": arrived, "method": "DOP853", "rtol": 1e-11, "atol": 1e-12}
    path = solve_ivp(velocity, (0.0, 10.0), np.cos(ANGLES), **options)
    return np.hypot(path.y_events[0][0], y)


def slope_at_depth_two(sigma: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"] | float, size=1.0) -> float:
    """The slope at N = 2, for starts whose frames are independent and whose singular values have this density.

    The singular values of the limit are the eigenvalues of sqrt(S) (a + b (O + O^T)/2) sqrt(S), b = 1/m, a^2 = 1 + b^2,
    with the start's singular values S, of mean m, and an orthogonal O independent of them: a free product, whose
    S-transforms multiply. With psi(z) = E z s/(1 - z s), the chi that inverts psi is chi_1 chi_2 (1 + y)/y. At z = -1/t
    this gives E s/(t + s) without an inversion, and E s log s is the integral of M/(1 + t) - E s/(t + s) over t > 0,
    where M = E s.

    **Arguments:** `size`, a factor of the starts; at 0 the slope is the limit of small starts.
    """
    share = np.broadcast_to(weights, sigma.shape) / np.sum(np.broadcast_to(weights, sigma.shape))
    start_mean = np.sum(share * sigma)
    # The rank does not depend on the scale. Here a and b have the factor m, and both are finite for small starts.
    a, b = np.hypot(size * start_mean, 1.0), 1.0
    tau, y, left = np.exp(LOGS), np.empty(len(LOGS)), np.empty(len(LOGS))
    for k, one in enumerate(tau):
        # -psi of the start at -1/tau, and 1 + psi without a difference of nearly equal numbers.
        y[k], left[k] = np.sum(share * sigma / (one + sigma)), np.sum(share * one / (one + sigma))
    # -chi of a + b cos(angle) for a uniform angle, whose psi is 1/sqrt((1 - a z)^2 - b^2 z^2) - 1.
    other = y * (1 + left) / (a * left**2 + left * np.sqrt(b**2 * left**2 + a**2 - b**2))
    t, mean = tau * y / (left * other), a * start_mean
    s_log_s = simpson((mean / (1 + t) - y) * t, x=np.log(t))
    return float(np.exp(np.log(mean) - s_log_s / mean))


def derived(law: str, depth: float) -> float:
    """The slope that is derived for starts of this law, or NaN. Tails as those of "Student" need larger matrices."""
    if law == "orthogonal":
        return slope_of(orthogonal_law(depth), 1.0)
    known = depth == 2 and law != "Student"
    return slope_at_depth_two(*quarter_circle(), size=float(law != "small Gaussian")) if known else np.nan
