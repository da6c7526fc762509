"""Numbers and names as people read them. Pure functions, no terminal, no markup."""

import math
import re
import unicodedata

_UNITS = ("B", "kB", "MB", "GB", "TB")
_DTYPES = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}
ABSENT = "-"


def format_bytes(count: int) -> str:
    """Three significant digits in decimal units: 999 B, 12.3 kB, 5.72 MB."""
    value, unit = float(abs(count)), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    digits = 0 if unit == 0 else max(0, 2 - int(math.log10(max(value, 1))))
    return f"{'-' if count < 0 else ''}{value:.{digits}f} {_UNITS[unit]}"


def format_ratio(ratio: float) -> str:
    """1.02x, 9.87x, 46.1x, 320x: never rounded up past what was reached."""
    digits = 2 if ratio < 10 else 1 if ratio < 100 else 0
    scale = 10**digits
    return f"{math.floor(ratio * scale + 1e-9) / scale:.{digits}f}x"


def format_error(error: float | None) -> str:
    """Three significant digits, rounded up, for an error must never look smaller than it is: 9.98e-4, 0.25, 0."""
    if error is None:
        return ABSENT
    if error == 0 or not math.isfinite(error):
        return "0" if error == 0 else str(error)
    exponent, shift = math.floor(math.log10(abs(error))), 200 if abs(error) < 1e-300 else 0  # powers below are zero
    mantissa = math.ceil(error * 10.0**shift / 10.0 ** (exponent + shift) * 100 - 1e-9) / 100
    if mantissa >= 10:
        mantissa, exponent = mantissa / 10, exponent + 1
    if -1 <= exponent <= 2:
        return f"{mantissa * 10.0**exponent:.{2 - exponent}f}"
    return f"{mantissa:.2f}e{exponent}"


def format_tolerance(tol: float | None) -> str:
    """The shortest form: 1e-3, 2.5e-4, 0.1."""
    if tol is None:
        return ABSENT
    if tol == 0 or tol >= 0.1:
        return f"{tol:.4g}"
    mantissa, exponent = f"{tol:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def format_bits(bits: float | None) -> str:
    """Bits a weight, two decimals below ten."""
    return ABSENT if bits is None else f"{bits:.2f}"


def format_shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "scalar"


def format_dtype(dtype: str) -> str:
    """float32 -> f32: the dtypes of most weights in three or four letters."""
    return _DTYPES.get(dtype, dtype)


def format_seconds(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 05 s, 1 h 02 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def abbreviate(text: str, width: int) -> str:
    """Cut the middle out of a long name: both ends tell most. `width` is in characters."""
    if len(text) <= width:
        return text
    if width < 5:
        return text[:width]
    head = (width - 3) // 2
    return text[:head] + "..." + text[len(text) - (width - 3 - head) :]


def fold(text: str, width: int, lines: int = 2) -> list[str]:
    """A long dotted name on a few lines, broken after dots where there are any; what is still too long is cut."""
    folded: list[str] = []
    while len(text) > width and len(folded) < lines - 1:
        cut = text.rfind(".", 1, width) + 1
        if not cut or len(text) - cut > width * (lines - 1 - len(folded)):
            cut = width  # a line cut short would cost characters of the name, which may be all that tells it apart
        folded.append(text[:cut])
        text = text[cut:]
    return [*folded, abbreviate(text, width)]


def printable(text: str) -> str:
    """A name without control characters: what comes out of a file must not steer the terminal."""
    return "".join(c if unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in text)


def one_line(text: str) -> str:
    """A message on one line, without control characters."""
    return printable(re.sub(r"\s+", " ", text)).strip()
