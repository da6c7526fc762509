"""Every error a user can cause or meet; the command line catches the root once.

A message is one line: what is wrong, where, and what to do about it.
"""


class HMCompressError(Exception):
    """Root of all errors of this package. `exit_code` is what the command line returns for it."""

    exit_code = 2


class SettingsError(HMCompressError):
    """A setting, a YAML file or an option is wrong."""


class SourceError(HMCompressError):
    """A checkpoint cannot be read."""


class FormatError(HMCompressError):
    """A compressed file is damaged, foreign, or of a version this release does not know."""


class OutputError(HMCompressError):
    """A file cannot be written, or exists already."""


class NetworkError(HMCompressError):
    """The network cannot be built from the checkpoint, or does not run on the inputs."""


class BoundError(HMCompressError):
    """A bound is violated or cannot be met."""

    exit_code = 1
