"""A network that runs: from a checkpoint to a module, the points it is run on, its derivatives.

`build` makes one of the kinds that the settings name, from `modules` of ours or a `factory` of the user's; `network` is
what comes of it. `inputs` says on which points it runs, `arguments` which array goes where, `links` which layer feeds
which. Derivatives: `tangents`, `formulas` for what torch has wrong, `curvature` to tell.
"""
