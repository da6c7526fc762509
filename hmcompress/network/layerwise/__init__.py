"""Passes that code one layer after another, and the search over them."""
