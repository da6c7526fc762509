"""All weights at once: small networks that learn what a large one computes, quantised as a whole.

`smallest` is the stage itself. `chains`, `tracing` and `features` say in whose place a small network (`small`) stands,
`distil` what it learns from, `least_squares` and `krylov` (by products with the Jacobian, `linearised`) how. It is
thinned and quantised (`quantise`, `nearest_plane`, `integer_moves`, `ordering`) in many forms, of which the smallest is
looked for (`form_search`).
`middle` goes on with some tens of neurons where few are not enough, `whole` and `whole_quantise` take all numbers of a
network that has no such chains.
"""
