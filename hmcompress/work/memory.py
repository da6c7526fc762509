"""How much memory a process has held."""

import sys

if sys.platform == "win32":
    import psutil
else:
    import resource


def peak_rss_bytes() -> int:
    """The most memory this process has held."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
