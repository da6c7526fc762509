"""The H-matrix: a block cluster tree, its leaves, which of them pay, and their bytes."""
