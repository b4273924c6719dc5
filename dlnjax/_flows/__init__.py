"""The gradient flow of one energy from one start: coordinates, steps, lanes, derivatives, and the public call."""
