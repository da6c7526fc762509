"""What is bounded: errors of the outputs, their derivatives and the tangent kernel, and what is told of them.

`problem` poses it: a network, points, original outputs. `error` says what an error is, `ntk` and `kernel_bound` bound
the tangent kernel, `outcome` and `growth` fill the report, `recheck` serves verify.
"""
