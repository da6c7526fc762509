"""Text from files that nobody vouches for, and names of files."""

import os

from hmcompress.errors import HMCompressError


def check_name(path: object, error: type[HMCompressError]) -> None:
    """Raise `error` for what is no name of a file, as an open one or a state dict."""
    if not isinstance(path, (str, os.PathLike)):
        raise error(f"the name of a file is expected, not a {type(path).__name__}; torch.save writes one")


def excerpt(text: str, limit: int = 200) -> str:
    """Text from an untrusted source, printable and short."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:limit])
    return shown + ("..." if len(text) > limit else "")


def is_unicode(text: str) -> bool:
    """Whether text has no lone surrogates, which no encoding takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
