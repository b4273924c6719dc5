"""Geodesics: their Hamiltonian flow, Jacobi fields, and the search for the momentum that joins two matrices."""
