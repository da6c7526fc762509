"""A network that runs: from a checkpoint to a module, the points it is run on, its derivatives."""
