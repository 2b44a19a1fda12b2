"""A file that is replaced whole: whoever reads it finds the old one or the new one, also after a crash."""

import os
from pathlib import Path


def replace(path: Path, content: bytes, *, mode: int) -> None:
    """Write the file, whose directory is there, in one step; OSError leaves the old one, and nothing beside it."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # whatever the umask says
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
