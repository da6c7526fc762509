"""What a user is told where a module of theirs fails: its own first line, and what to do."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from hmcompress.errors import NetworkError

_RECOMPUTES = (
    "the network computes a part again on the way back (torch.utils.checkpoint), where layers are not followed: "
    "let the factory return it with that turned off"
)
KNOWS_NO = "torch knows no such derivative"


def failure(error: BaseException, inputs: Sequence[Tensor]) -> BaseException:
    """What to raise in place of a module's error on some inputs."""
    if _was_interrupted(error):
        return KeyboardInterrupt()
    line = _said(error)
    shapes = " and ".join(str(tuple(t.shape)) for t in inputs)
    return NetworkError(f"the network fails on the inputs {shapes}: {line}; {_remedy(inputs, line)}")


@contextmanager
def told_of_recomputation() -> Iterator[None]:
    """What activation checkpointing says over many lines, in one. Raises NetworkError."""
    try:
        yield
    except CheckpointError as error:
        raise NetworkError(_RECOMPUTES) from error


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: compiled code that it stops ends with a SystemError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _said(error: BaseException) -> str:
    """The first line of an error; of one within an archive the last, for the first says only that there is one."""
    if isinstance(error, SystemExit):
        return f"it ends the program with sys.exit({'' if error.code is None else repr(error.code)})"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].removeprefix("RuntimeError: ") if "TorchScript interpreter" in lines[0] else lines[0]


def _remedy(inputs: Sequence[Tensor], message: str) -> str:
    if any(not t.is_floating_point() and not t.is_complex() for t in inputs) and "dtype" in message:
        return "some inputs are whole numbers: store them as floats"
    if "indices" in message and "Float" in message:
        return "some inputs must be whole numbers: store them as integers in .npz or .safetensors"
    if "positional argument" in message and "but" in message:
        return "each array of the inputs is an argument: give a factory whose module makes a dict or a list of them"
    if "missing" in message and "argument" in message:
        return "inputs: holds too few arrays, or give a factory whose module adds the constants that it needs"
    if "forward AD" in message and (operation := re.search(r"with (?:aten::)?(\w+?)(_backward|_jvp)? that", message)):
        works = "derivatives: 1 works" if operation[2] else "use derivatives: 0"
        return f"{KNOWS_NO} of {operation[1]}: {works}, or write it as a formula in a factory"
    return "check network: and calibration:"
