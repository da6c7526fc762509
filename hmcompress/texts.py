"""Text from files that nobody vouches for."""


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
