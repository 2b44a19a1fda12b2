"""The documents: which of their tables are made from the code, and what they show of a console.

Between `<!-- generated: NAME -->` and `<!-- end -->` stands a table that `nox -s docs` writes anew.  A block of ```console
holds commands after `$ ` (in a clone of this repository) or `# ` (root on a node), each with what it prints, if that is
shown: `...` stands for anything within a line, and alone in its line for any lines.  `<!-- not run: REASON -->` before a
block says why no test runs it.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path

from pydantic.fields import FieldInfo

from wigglenet_operator.agent.metrics import METRICS
from wigglenet_operator.model.problems import PROBLEMS
from wigglenet_operator.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
TABLE = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
CONSOLE = re.compile(
    r"^(?P<indent> *)(?:<!-- not run: (?P<reason>[^\n]*) -->\n *)?```console\n(?P<text>.*?)^ *```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What is typed, and what is shown of its output, empty for nothing."""

    line: str
    on_a_node: bool
    shown: tuple[str, ...]

    def prints(self, output: str) -> bool:
        """Whether the output is what is shown."""
        wanted = "".join(
            "(?:.*\n)*" if line.strip() == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n" for line in self.shown
        )
        return not self.shown or bool(re.fullmatch(wanted, "".join(f"{line.rstrip()}\n" for line in output.splitlines())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of commands in a page."""

    where: str
    """`docs/install.md:12`."""
    not_run: str | None
    """The reason, if there is one."""
    commands: tuple[Command, ...]


def blocks(page: Path) -> Iterator[Block]:
    """The console blocks of a page, from the top."""
    text = page.read_text()
    for found in CONSOLE.finditer(text):
        lines = [line.removeprefix(found["indent"]).rstrip() for line in found["text"].splitlines()]
        starts = [i for i, line in enumerate(lines) if line.startswith(("$ ", "# "))]
        yield Block(
            where=f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, found.start('text'))}",
            not_run=found["reason"],
            commands=tuple(
                Command(line=lines[i][2:], on_a_node=lines[i].startswith("#"), shown=tuple(lines[i + 1 : end]))
                for i, end in pairwise([*starts, len(lines)])
            ),
        )


def written(page: Path) -> str:
    """A page with its generated tables as the code has them."""
    return TABLE.sub(lambda found: found[1] + "\n".join(TABLES[found[2]]()) + "\n" + found[3], page.read_text())


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    names = list(head)
    for row in (names, ["---"] * len(names), *rows):
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |"


def _settings() -> Iterator[str]:
    meanings = meanings_of(Settings)
    for_each = [
        (f"`{name}`", _default(field), field.description or "", meanings[name]) for name, field in Settings.model_fields.items()
    ]
    return _table(("Variable", "Default", "Allowed", "Meaning"), for_each)


def meanings_of(settings: type) -> Mapping[str, str]:
    """The string below each field of a class, by the field's name."""
    (made,) = ast.parse(inspect.getsource(settings)).body
    assert isinstance(made, ast.ClassDef)
    found = {}
    for field, below in pairwise(made.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                found[name] = meaning
    return found


def _default(field: FieldInfo) -> str:
    default = field.default
    if field.is_required():
        return "(required)"
    if default is None and (field.description or "").startswith("auto,"):
        return "`auto`"
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return "`on`" if default else "`off`"
    return f"`{default.value if isinstance(default, Enum) else default}`"


def _problems() -> Iterator[str]:
    rows = [
        (f"`{code}`", told.severity.value, "yes" if told.breaks else "", told.meaning, told.remedy)
        for code, told in sorted(PROBLEMS.items())
    ]
    return _table(("Code", "Severity", "Data path", "Meaning", "What to do"), rows)


def _metrics() -> Iterator[str]:
    rows = [
        (f"`{metric.name}`", metric.kind.value, ", ".join(f"`{label}`" for label in metric.labels), metric.help)
        for metric in METRICS
    ]
    return _table(("Name", "Type", "Labels", "Meaning"), rows)


TABLES: Mapping[str, Callable[[], Iterator[str]]] = {"settings": _settings, "problems": _problems, "metrics": _metrics}
