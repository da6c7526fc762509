"""Matrices whose behaviour under every peer is known."""

import numpy as np
import torch


def noise(m: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((m, n))).float()


def decaying(m: int, n: int) -> torch.Tensor:
    """Singular values 2^-k."""
    u, v = (torch.linalg.qr(noise(k, 40, seed).double())[0] for k, seed in ((m, 1), (n, 2)))
    return ((u * 0.5 ** torch.arange(40)) @ v.T).float()


def scaled(m: int, n: int) -> torch.Tensor:
    """Rows whose scales span six orders of magnitude."""
    return noise(m, n, 3) * torch.logspace(-6, 0, m)[:, None]
