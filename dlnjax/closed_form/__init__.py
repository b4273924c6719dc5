"""Closed forms: geodesics for the ends that have one, and flows towards a given matrix.

A geodesic takes its ends and returns a callable of t, which gives X(t) for a number, or for an array of times. Input
for which a form does not hold is refused, with the number by which it fails.
"""

from dlnjax.closed_form._geodesics import (
    bures_wasserstein as bures_wasserstein,
    commuting as commuting,
    diagonal as diagonal,
    printed_line as printed_line,
)
from dlnjax.closed_form._modes import mode as mode
from dlnjax.closed_form._two_layers import two_layer as two_layer, TwoLayer as TwoLayer
