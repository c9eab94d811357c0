"""Tables on a terminal or in a file, from values that may be hostile."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_UNBOUNDED = 100_000


def plain_console(file: TextIO | None = None) -> Console:
    """A console that takes text as text (no markup, no emoji codes), as wide as needed unless it is a terminal."""
    from rich.console import Console

    class PipeConsole(Console):
        def on_broken_pipe(self) -> None:
            # rich would end the process with code 1; this is for the command line to decide.
            raise BrokenPipeError

    console = PipeConsole(file=file, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        # A file has no width that values would have to be cut to.
        console.width = _UNBOUNDED
    return console


def ruled_table(left: tuple[str, ...] = (), right: tuple[str, ...] = (), *, wrap: bool = False) -> Table:
    """A table with a line below its headings: the columns `left`, and then those that are aligned `right`."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name in left:
        table.add_column(name, no_wrap=not wrap, overflow="fold" if wrap else "ellipsis")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table
