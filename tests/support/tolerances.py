"""The three tolerances of the suite, and the one way to use them."""

import numpy as np

ALGEBRA = 1e-12
INTEGRATION = 1e-8
FINITE_DIFFERENCE = 1e-5


def assert_close(actual, expected, tolerance):
    """Entry by entry, within the tolerance of the largest entry expected, or of 1 where that is smaller."""
    expected = np.asarray(expected)
    scale = max(1.0, np.max(np.abs(expected), initial=0.0))
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance * scale)
