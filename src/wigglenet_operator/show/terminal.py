"""A page on a terminal: in colours and no wider than that, by rich."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from wigglenet_operator.show.page import GAP, Grid, Line, Page, Row, aligned

LEAST = 12
"""Columns in which something can still be read."""


class Terminal:
    """Where a page is shown."""

    def __init__(self, stream: IO[str], *, width: int | None = None) -> None:
        """With `width`, it is as if `stream` were a terminal of so many columns."""
        self._console = Console(file=stream, width=width, force_terminal=bool(width) or None, highlight=False)

    def show(self, page: Page) -> None:
        """Write it."""
        self._console.print(_Styled(page), end="", crop=False)

    @contextmanager
    def live(self) -> Iterator[Callable[[Page], None]]:
        """What shows a page in the place of the one before it; the last one stays, as a whole."""
        with Live(console=self._console, auto_refresh=False) as shown:
            yield lambda page: shown.update(_Styled(page), refresh=True)


class _Styled:
    """A page as rich takes it; Text, unlike a string, is never markup."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Aligned as in a pipe, for a thousand rows of rich's table take 0.3 s; a last column that does not fit is folded.

        Where there is not even room for the others, the terminal itself breaks the lines, so that nothing is lost.
        """
        for block in self._page:
            if isinstance(block, Line):
                text = Text.assemble(*((cell.text, cell.mood.value) for cell in block.cells))
                yield Padding(text, (0, 0, 0, block.indent), expand=False) if block.cells else text
                continue
            rows = [*aligned(block)]
            whole_width, labels = (max(map(_width, part), default=0) for part in (rows, [row[:-1] for row in rows]))
            if labels + LEAST <= options.max_width < whole_width:
                yield _folded(block)
                continue
            whole = Text(no_wrap=True, overflow="ignore")
            for row in rows:
                whole.append("\n" if whole else "")
                for cell in row:
                    whole.append(cell.text, cell.mood.value)
            yield whole


def _width(row: Row) -> int:
    return len("".join(cell.text for cell in row).rstrip())


def _folded(grid: Grid) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, len(GAP), 0, 0), show_header=bool(grid.heads), header_style="bold")
    columns = len(grid.rows[0])
    for number in range(columns):
        table.add_column(grid.heads[number] if grid.heads else "", overflow="fold", no_wrap=number < columns - 1)
    for row in grid.rows:
        table.add_row(*(Text(cell.text, cell.mood.value) for cell in row))
    return table
