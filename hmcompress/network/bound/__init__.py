"""What is bounded: errors of the outputs, their derivatives and the tangent kernel, and what is told of them."""
