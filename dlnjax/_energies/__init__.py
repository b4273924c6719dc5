"""Energies: pure callables X -> scalar. Add one here: an `eqx.Module` with `__call__`, and nothing else is needed."""
