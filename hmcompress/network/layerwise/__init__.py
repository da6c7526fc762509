"""Passes that code one layer after another, and the search over them.

`original` gathers what a pass (`propagate`) needs of the original network: `moments` of dense layers, `gradients` and
perturbations (`others`) of further weights. What a pass makes is `coded`, or a `low_rank` product. `search` looks for
the smallest `trial`, in each of the `ways` that may win, within a `budget`; `guard` holds points that nothing is chosen
by, `fallback` is for where no pass keeps the bound.
"""
