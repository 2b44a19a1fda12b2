"""What is shown, as values, and as plain aligned text, for pipes; `terminal` shows it in colours.

Names and texts come from a cluster that others write to: nothing that is not printable, and no markup, reaches a terminal.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import IO

GAP = "  "


class Mood(Enum):
    """How something is meant; the value is rich's style."""

    PLAIN = ""
    GOOD = "green"
    DOUBTFUL = "yellow"
    BAD = "bold red"
    DULL = "dim"
    HEAD = "bold"


def printable(text: str) -> str:
    """The text with `?` in the place of what would steer a terminal; lines stay lines."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of text; what cannot be printed is `?`."""

    text: str
    mood: Mood = Mood.PLAIN

    def __post_init__(self) -> None:
        """Also on a terminal that obeys control characters, it is what it says."""
        if not self.text.isprintable():
            object.__setattr__(self, "text", printable(self.text).replace("\n", "?"))


Row = Sequence[Cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Words side by side."""

    cells: Row
    indent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Columns; the last one may be long."""

    rows: Sequence[Row]
    heads: Sequence[str] = ()


Block = Line | Grid
Page = Sequence[Block]
EMPTY = Line(cells=())


def plain(page: Page) -> str:
    """Each row on a line of its own, however long."""
    return "".join(f"{''.join(cell.text for cell in row).rstrip()}\n" for block in page for row in aligned(block))


def show(page: Page, stream: IO[str]) -> None:
    """Write the page, as `terminal` has it if `stream` is one."""
    if stream.isatty():
        from wigglenet_operator.show.terminal import Terminal  # noqa: PLC0415 - rich takes 60 ms, which no pipe must wait for

        Terminal(stream).show(page)
    else:
        stream.write(plain(page))


@contextmanager
def live(stream: IO[str]) -> Iterator[Callable[[Page], None]]:
    """What shows a page in the place of the one before it; where `stream` is no terminal, below it."""
    if stream.isatty():
        from wigglenet_operator.show.terminal import Terminal  # noqa: PLC0415 - as above

        with Terminal(stream).live() as put:
            yield put
        return

    def put_below(page: Page) -> None:
        stream.write(f"{plain(page)}\n")
        stream.flush()

    yield put_below


def aligned(block: Block) -> Iterator[Row]:
    """The rows with their cells as wide as their columns."""
    if isinstance(block, Line):
        yield (Cell(" " * block.indent), *block.cells)
        return
    rows = [[Cell(head, Mood.HEAD) for head in block.heads], *block.rows] if block.heads else block.rows
    widths = [max(len(cell.text) for cell in column) for column in zip(*rows, strict=True)][:-1]
    for row in rows:
        yield [*(Cell(f"{cell.text:<{width}}{GAP}", cell.mood) for cell, width in zip(row, widths, strict=False)), row[-1]]


SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: int) -> str:
    """Bytes for people: `3.4 KiB`."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(SIZES) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {SIZES[unit]}" if unit else f"{count} B"


SPANS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def age(seconds: float) -> str:
    """How long ago, in the two largest units: `1 h 5 min`; a time to come is now."""
    left = max(int(seconds), 0)
    words: list[str] = []
    for unit, length in SPANS:
        count, left = divmod(left, length)
        if count or (unit == "s" and not words):
            words.append(f"{count} {unit}")
        elif words:
            break
    return " ".join(words[:2])
