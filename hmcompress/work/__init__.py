"""Work on several tensors at once, in order and within a limit of memory, and how it tells its progress."""
