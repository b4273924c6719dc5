"""The figures of the thesis and of the open questions, each in a module with three functions.

`compute` makes the data of the figure, `draw` draws the figure from these data alone, and `numbers` reads the rows of
the table off them. To add a figure, write such a module and name it here.
"""

from dlnjax.figures import (
    _balls,
    _blocks,
    _brownian,
    _coupling,
    _curvature,
    _descent,
    _divergence,
    _equilibrium,
    _escape,
    _free_energy,
    _isotropy,
    _lazy,
    _lengths,
    _limits,
    _lines,
    _means,
    _norm_gap,
    _phases,
    _rank_dynamics,
    _ratings,
    _regularisation,
    _saddles,
    _sensing,
    _slope,
    _small_starts,
    _sparsity,
    _teacher,
    _temperature,
    _thermal,
    _two_by_two,
    _upstairs,
)
from dlnjax.figures._figure import Figure as Figure, Number as Number

FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        _lines.FIGURE,
        _balls.FIGURE,
        _curvature.FIGURE,
        _means.FIGURE,
        _coupling.FIGURE,
        _escape.FIGURE,
        *_rank_dynamics.FIGURES,
        _limits.FIGURE,
        _small_starts.FIGURE,
        _sparsity.FIGURE,
        _isotropy.FIGURE,
        _regularisation.FIGURE,
        _phases.FIGURE,
        _descent.FIGURE,
        _sensing.FIGURE,
        _teacher.FIGURE,
        _lazy.FIGURE,
        _ratings.FIGURE,
        _brownian.FIGURE,
        _upstairs.FIGURE,
        _temperature.FIGURE,
        _thermal.FIGURE,
        _lengths.FIGURE,
        _two_by_two.FIGURE,
        _divergence.FIGURE,
        _blocks.FIGURE,
        _free_energy.FIGURE,
        _slope.FIGURE,
        _norm_gap.FIGURE,
        _saddles.FIGURE,
        _equilibrium.FIGURE,
    )
}
