"""Tables on a terminal or in a file, from values that may be hostile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_UNBOUNDED = 100_000
_GAP = 3
"""Characters between two columns of a ruled table."""
_NARROWEST = 12
"""Of a column that is cut to the room there is."""


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


def print_rows(
    console: Console,
    rows: Iterable[Sequence[str | Text]],
    left: tuple[str, ...],
    right: tuple[str, ...] = (),
    *,
    dispensable: tuple[str, ...],
    cut: str | None = None,
) -> None:
    """Print `rows` as a ruled table of the columns `left` and `right`. Where the terminal is too narrow for it, the column
    `cut` is cut, and then those that are `dispensable` are left out, the first first; a line says which."""
    from rich.cells import cell_len
    from rich.text import Text

    names = [*left, *right]
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    widths = {
        name: max([cell_len(name), *(row[i].cell_len for row in cells)]) for i, name in enumerate(names)
    }
    missing: list[str] = []
    while True:
        shown = [name for name in names if name not in missing]
        needed = {name: min(widths[name], _NARROWEST) if name == cut else widths[name] for name in shown}
        spare = console.width - sum(needed.values()) - _GAP * (len(shown) - 1)
        if spare >= 0 or len(missing) == len(dispensable):
            break
        missing.append(dispensable[len(missing)])
    table = ruled_table(
        tuple(name for name in left if name in shown), tuple(name for name in right if name in shown)
    )
    for row in cells:
        fitting = [row[i] for i, name in enumerate(names) if name in shown]
        if cut in shown:
            fitting[shown.index(cut)].truncate(needed[cut] + max(0, spare), overflow="ellipsis")
        table.add_row(*fitting)
    console.print(table)
    if missing:
        console.print(f"(too narrow for: {', '.join(missing)}; --json has all)", soft_wrap=True)
