"""Element types by name: torch's own, and those in the header of a safetensors file."""

import torch

# Types that every safetensors reader of the last years knows.
SAFETENSORS: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
EVERY_SAFETENSORS = SAFETENSORS | {
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.complex64: "C64",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
}


def dtype_name(dtype: torch.dtype) -> str:
    """The name without its module: "float32"."""
    return str(dtype).removeprefix("torch.")
