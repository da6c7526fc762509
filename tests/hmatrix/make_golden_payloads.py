"""Adds to golden/payloads_1.npz, one payload for each codec and part: `python tests/hmatrix/make_golden_payloads.py`.

Frozen once its format version is released: every later release must decode these payloads to the same values.
"""

from pathlib import Path

import numpy as np
import torch

from hmcompress.hmatrix import HMatrix, compress_matrix

GOLDEN = Path(__file__).parent / "golden" / "payloads_1.npz"


def matrices() -> dict[str, HMatrix]:
    """What each payload shows: a codec, a leaf kind, a basis, an order, a way to code integers."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(48, 64, generator=generator)
    x = torch.linspace(0, 1, 96)
    kernel = 1 / ((x[:, None] - x[None]).abs() + 1 / 96)
    shuffled = kernel[torch.randperm(96, generator=generator)][:, torch.randperm(96, generator=generator)]
    whole = torch.round(torch.randn(40, 64, generator=generator) * 30)
    band = torch.randn(96, 128, generator=torch.Generator().manual_seed(5)).tril(1).triu(-1)
    own = torch.Generator().manual_seed(6)
    smooth = torch.cumsum(torch.randn(80, 24, generator=generator), 0)
    waves = torch.cos(2 * torch.pi * torch.outer(torch.arange(24), torch.arange(64)) / 64)
    places, codes = torch.randint(0, 6, (48, 96), generator=own), torch.randint(-7, 8, (32, 16, 16), generator=own)
    scales = torch.randint(1, 64, (32, 16), generator=own) * torch.rand(32, 1, generator=own)
    few, triangle = noise[:20, :32], noise[:32, :32].tril(-1)
    return {
        "plain": compress_matrix(noise, 1e-2),
        "plain_fine": compress_matrix(noise.double(), 1e-8),
        "plain_fast": compress_matrix(noise, 1e-2, effort="fast"),
        "max_norm": compress_matrix(noise, 1e-2, "max"),
        "trellis": compress_matrix(noise, 1e-1, effort="max"),
        "tree": compress_matrix(kernel, 1e-4),
        "tree_ordered": compress_matrix(shuffled, 1e-3),
        "interpolated": compress_matrix(torch.minimum(x[:, None], x) * (1 - torch.maximum(x[:, None], x)), 1e-3),
        "smooth": compress_matrix(smooth, 1e-3),
        "scales": compress_matrix(noise * torch.exp(torch.randn(48, 1, generator=generator) * 2), 1e-2),
        "values": compress_matrix(torch.randn(5, generator=generator)[whole.long().abs() % 5], 1e-3),
        "narrow": compress_matrix(noise.bfloat16().float(), 1e-6),
        "lossless": compress_matrix(noise.half(), 1e-5),
        "lossless_by_columns": compress_matrix(noise[0].bfloat16().expand(48, 64), 1e-6),
        "zero": compress_matrix(torch.zeros(16, 20), 1e-2),
        "places_by_rows": compress_matrix(noise * (torch.rand(48, 64, generator=generator) < 0.05), 1e-3),
        "places_by_columns": compress_matrix(band, 1e-2),
        "tiled": compress_matrix(torch.kron(noise[:12, :12], noise[20:32, 20:28]), 1e-2),
        "kernels": compress_matrix(noise[:24, :20].repeat_interleave(9, 1) + noise[:24, :1] / 9, 1e-2, kernel=9),
        "diagonals": compress_matrix(noise[0, (x[:, None] - x).mul(31).round().int().abs()] + noise[0, 0] / 99, 1e-2),
        "group_codes": compress_matrix(torch.round(whole / 15).bfloat16() * noise[:40, :1].bfloat16(), 1e-6),
        "few_values": compress_matrix(torch.randn(160, 64, generator=generator).to(torch.float8_e5m2).float(), 2e-2),
        "split": compress_matrix(torch.randn(128, 128, generator=generator), 0.05, effort="fast"),
        "short_floats": compress_matrix(noise.bfloat16(), 3e-4),
        "short_floats_pruned": compress_matrix(noise.bfloat16() * (noise.roll(9, 1) > 0.5), 3e-4),
        "short_floats_alike": compress_matrix(torch.rand(48, 64, generator=generator).bfloat16(), 3e-4),
        "short_floats_alike_pruned": compress_matrix(torch.rand(96, 64, generator=generator).pow(4).half(), 1e-4),
        "listed": compress_matrix(torch.randn(48, 6, generator=own).gather(1, places), 1e-3),
        "copied": compress_matrix(torch.cat([few, few.roll(8, 1) * torch.sign(few[0] + 1), -few]), 1e-2),
        "copied_columns": compress_matrix(torch.cat([few.T, -few.T], 1), 1e-2),
        "copied_diagonals": compress_matrix(triangle + triangle.T, 1e-2),
        "copied_antidiagonals": compress_matrix((triangle - triangle.T).flip(1), 1e-2),
        "waves": compress_matrix(waves, 1e-3),
        "sinusoids": compress_matrix(
            torch.sin(torch.outer(torch.arange(64), 2.7 ** -torch.linspace(0, 4, 40)) + 1), 1e-3
        ),
        "sinusoids_by_rows": compress_matrix(torch.cos(torch.outer(2.7 ** -torch.linspace(0, 4, 40), x * 95)), 1e-2),
        "thrift": compress_matrix(
            noise * torch.exp(torch.randn(48, 1, generator=own) + torch.randn(64, generator=own)), 0.1
        ),
        "digits": compress_matrix(torch.randn(3, 7, generator=own), 1e-2),
        "digits_from_lowest": compress_matrix(torch.rand(2, 9, generator=own) + 0.6, 1e-2),
        "digits_of_a_long_step": compress_matrix(torch.tensor([[0.1, -0.3, 0.2]]), 1e-6),
        "digits_none": compress_matrix(torch.zeros(3, 4), 1e-2),
        "group_codes_of_scales": compress_matrix(codes.mul(scales[..., None]).reshape(32, 256), 1e-4),
    }


def main() -> None:
    GOLDEN.parent.mkdir(exist_ok=True)
    arrays = dict(np.load(GOLDEN)) if GOLDEN.exists() else {}
    for name, matrix in matrices().items():
        if f"{name}.payload" in arrays:
            continue
        arrays[f"{name}.payload"] = np.frombuffer(matrix.payload, np.uint8)
        arrays[f"{name}.decoded"] = matrix.to_dense().double().numpy()
        arrays[f"{name}.dtype"] = np.array(str(matrix.dtype).removeprefix("torch."))
        print(f"{name}: codec {matrix.payload[0]}, {matrix.nbytes} bytes, {matrix.leaves}")
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
