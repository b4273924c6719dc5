"""The kernel of the geometry, the operator and the metric made of it, and functions of the singular values."""
