"""All weights at once: small networks that learn what a large one computes, quantised as a whole."""
