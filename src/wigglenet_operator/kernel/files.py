"""Files that are replaced whole: whoever reads one finds the old or the new, also after a crash.  And files that go."""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from wigglenet_operator.kernel.ports import raise_refused
from wigglenet_operator.model.changes import Changes


def replace(path: Path, content: bytes, *, mode: int) -> None:
    """Write the file, whose directory is there, in one step; OSError leaves the old one, and nothing beside it."""
    temporary = unfinished(path)
    temporary.unlink(missing_ok=True)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # whatever the umask says
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.rename(path)
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Make a new name outlive a crash of the machine; a file system that cannot do so has done what it can."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unfinished(path: Path) -> Path:
    """Where a crash leaves what was to become the file."""
    return path.with_name(f".{path.name}.new")


class OwnFiles:
    """Files and whole directories that are ours to remove, and directories that are if nothing else is in them, by path."""

    def __init__(self, paths: Iterable[Path], *, homes: Iterable[Path] = ()) -> None:
        self._paths, self._homes = list(paths), list(homes)

    async def observe(self) -> dict[str, None]:
        """Which of them are there; a directory that a container has mounted stays, and its maker removes it."""
        found = [path for path in self._paths if path.is_symlink() or path.exists()]
        found += [home for home in self._homes if home.is_dir() and not home.is_mount() and {*home.iterdir()} <= {*found}]
        return {str(path): None for path in found}

    async def apply(self, changes: Changes[str, None]) -> None:
        """Remove them, in that order."""
        refused = []
        for path in map(Path, changes.remove):
            try:
                with suppress(FileNotFoundError):
                    _remove(path, whole=path not in self._homes)
            except OSError as error:
                refused.append(f"remove {path}: {error.strerror}")
        raise_refused(refused)


def _remove(path: Path, *, whole: bool) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    elif whole:
        shutil.rmtree(path)
    else:
        path.rmdir()
