"""Matrices on grids whose steps follow rows and columns: the forms of the outputs metric."""
