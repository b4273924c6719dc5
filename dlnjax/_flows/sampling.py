"""How long a path with noise takes to forget: the integrated autocorrelation time."""

import numpy as np
from jaxtyping import Float

# The sum over the correlations ends at this number of autocorrelation times, see `autocorrelation_times`. Of a
# correlation exp(-t/tau) it leaves out the part exp(-6), and it takes in the noise of no more lags than it must.
WINDOW = 6.0
# In a path that is shorter than this number of times the result is NaN: chance would change it by half of it.
SPANS = 50.0
# The least autocorrelation time of independent values is half of the gap, so that fewer gaps are always too few.
FEWEST = 25


def autocorrelation_times(values: Float[np.ndarray, "*n ts"], gap: float) -> Float[np.ndarray, "*n"]:
    """The integrated autocorrelation time of each row of values at equal gaps, NaN where the row is too short for it.

    With the correlations rho_k of values k gaps apart it is gap (1/2 + rho_1 + ... + rho_M), the trapezoidal rule for
    the integral of rho, where M is the least number that is at least `WINDOW` times the sum itself. This is the
    self-consistent window of A. Sokal, Monte Carlo methods in statistical mechanics (1997), section 3. The sum over all
    lags would be 0 for every path, as the deviations from their mean add up to 0.
    """
    n = values.shape[-1]
    # The largest value is divided out first, as squares near the ends of the floats are lost.
    largest = np.max(np.abs(values), axis=-1, keepdims=True)
    usable = np.isfinite(largest) & (largest > 0)
    scaled = np.where(usable, values, 0.0) / np.where(usable, largest, 1.0)
    centred = scaled - scaled.mean(-1, keepdims=True)
    spread = np.max(np.abs(centred), axis=-1, keepdims=True)
    moves = spread > n * np.finfo(float).eps
    centred = np.where(moves, centred, 0.0) / np.where(moves, spread, 1.0)
    # Zeros behind the values keep the correlations of the two ends of a row out.
    power = np.abs(np.fft.rfft(centred, 2 * n)) ** 2
    covariance = np.fft.irfft(power, 2 * n)[..., :n]
    rho = covariance / np.where(moves, covariance[..., :1], 1.0)
    sums = np.cumsum(rho, axis=-1) - 0.5
    window = np.argmax(np.arange(n) >= np.maximum(WINDOW * sums, 1.0), axis=-1)
    tau = gap * np.take_along_axis(sums, window[..., None], axis=-1)[..., 0]
    known = moves[..., 0] & (window > 0) & ((n - 1) * gap >= SPANS * tau)
    return np.where(known, tau, np.nan)


def equal_gap(ts: Float[np.ndarray, "*n ts"]) -> float:
    """The gap between neighbours of `ts`.

    **Raises:** `ValueError` for too few times, for gaps that differ, and for rows that differ.
    """
    rows = ts.reshape(-1, ts.shape[-1])
    if not np.all(rows == rows[:1]):
        raise ValueError("autocorrelation_time needs the same ts for all seeds: take one seed, sol[i].")
    gaps = np.diff(rows[0])
    if len(gaps) < FEWEST:
        raise ValueError(
            f"autocorrelation_time needs at least {FEWEST + 1} saved times, got {len(gaps) + 1}: save more of them."
        )
    rounding = 8 * np.finfo(rows.dtype).eps * np.max(np.abs(rows[0]))
    if not np.ptp(gaps) <= 1e-6 * gaps.mean() + rounding:
        raise ValueError(
            f"autocorrelation_time needs equal gaps between saved times, got {gaps.min():g} to {gaps.max():g}: "
            "give ts by jnp.linspace, or leave times at the start out by `after`."
        )
    return float(gaps.mean())
