"""Pictures of flows and geodesics. Every function that draws one picture takes `ax=` and returns the axes.

Pictures of flows take a `FlowSolution` or its xarray form. Pictures of geodesics take a `GeodesicSolution` or any
curve.
"""

from dlnjax.plot._animation import animate as animate
from dlnjax.plot._distributions import effective_rank_violins as effective_rank_violins
from dlnjax.plot._flow import effective_rank as effective_rank, singular_values as singular_values
from dlnjax.plot._geodesic import ellipses as ellipses, singular_value_curves as singular_value_curves
from dlnjax.plot._grid import heat_map as heat_map
from dlnjax.plot._style import new_axes as new_axes, new_figure as new_figure, save as save, style as style
from dlnjax.plot._sweep import sweep as sweep
