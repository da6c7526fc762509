"""What a command prints and how its progress is drawn, on any terminal, into files and into pipes that close."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.progress import Task as ProgressTask
from rich.text import Text

from hmcompress.report.format import abbreviate, format_bytes, format_seconds, one_line
from hmcompress.work.progress import Progress as Tell
from hmcompress.work.progress import silent


def put(text: str, stream: TextIO | None) -> None:
    """Write text to stdout or stderr; characters that the stream's encoding lacks become escapes.

    A reader that has gone (`| head`) changes nothing, nor does a stderr that takes nothing (a full disk): the command's
    exit code tells what the command found.
    """
    if stream is None:  # closed by the shell, `>&-`
        return
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError as error:
        if stream is not sys.stderr and not isinstance(error, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # the interpreter flushes it once more at its end


def put_line(message: str, stream: TextIO | None) -> None:
    """One line, whatever the message holds."""
    put(one_line(message) + "\n", stream)


def width_of_terminal() -> int:
    """Columns of the terminal, or of what COLUMNS says."""
    return Console().width


def plain_console(**options: Any) -> Console:
    """A console that takes names as they are: neither markup nor emoji codes, which names out of files may hold."""
    return Console(highlight=False, markup=False, emoji=False, **options)


def draw(view: RenderableType) -> None:
    """Print a drawing of rich's on stdout, coloured where that is a terminal."""
    console = plain_console()
    with console.capture() as captured:
        console.print(view)
    put(captured.get(), sys.stdout)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Tell]:
    """A bar with bytes and time left on stderr; silent where nobody watches.

    What a user's own module prints goes to stderr too: stdout is for our result.
    """
    with redirect_stdout(sys.stderr), _bar(plain_console(stderr=True), quiet) as tell:
        yield tell


@contextmanager
def _bar(console: Console, quiet: bool) -> Iterator[Tell]:
    if quiet or not console.is_terminal:
        yield silent
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), _Left())
    with Progress(*columns, console=console, transient=True) as bar:
        task, shown = bar.add_task("", total=None), bar.tasks[0]

        def tell(what: str, done: int, total: int) -> None:
            if total != shown.total or done < shown.completed:  # other work, whose speed is another
                bar.reset(task)
            bar.update(task, description=abbreviate(one_line(what), 30), completed=done, total=total)

        yield tell


class _Left(TextColumn):
    """`12.3 MB of 104 MB, 8 s left`; no time before there is something to judge by."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: ProgressTask) -> Text:
        if task.total is None:
            return Text("")
        left = time_left(task.completed, task.total, task.elapsed or 0.0)
        return Text(so_far(task.completed, task.total) + ("" if left is None else f", {format_seconds(left)} left"))


def so_far(done: float, total: float) -> str:
    """Bytes, or per cent where the total is too small to be bytes that anybody waits for: the trials of a search."""
    if total < 10_000:
        return f"{done / total:.0%}" if total else ""
    return f"{format_bytes(int(done))} of {format_bytes(int(total))}"


def time_left(done: float, total: float, elapsed: float) -> float | None:
    """Seconds left at the speed so far; None in the first second and the first two per cent of the work."""
    if elapsed < 1 or done <= 0.02 * total:
        return None
    return elapsed * max(0.0, total - done) / done
