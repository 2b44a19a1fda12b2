"""The CNI plugins on the node: ours where there is none or an older one. Source: CNI spec 1.1.0, `pkg/skel` (about text).

Runs before the agent, with nothing but the plugins' directory of the node.
"""

import contextlib
import logging
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from wigglenet_operator.errors import KernelError

log = logging.getLogger(__name__)
ANSWER_SECONDS = 10.0
"""A plugin that is asked for its version answers at once, unless it is none."""


class Age(NamedTuple):
    """What a plugin says of itself; empty for what it does not say."""

    version: tuple[int, ...] = ()
    """Of its release; distributions build without."""
    protocol: tuple[int, ...] = ()
    """The highest version of the CNI protocol that it speaks."""

    def older(self, than: "Age") -> bool:
        """Whether it is certainly older: by release if both tell it, else by protocol."""
        if self.version and than.version:
            return self.version < than.version
        return bool(self.protocol) and self.protocol < than.protocol

    def __str__(self) -> str:
        """For a log line."""
        if self.version:
            return "v" + ".".join(map(str, self.version))
        return f"unknown version, CNI {'.'.join(map(str, self.protocol)) or 'unknown'}"


def install_plugins(source: Path, target: Path) -> None:
    """Put each plugin of `source` into `target` where it is missing or older; KernelError naming each that could not be.

    A plugin that is as new, or that does not say how old it is, stays. Each is replaced in one step, so that a pod that
    starts meanwhile finds the old one or the new one.
    """
    refused = []
    for plugin in sorted(source.iterdir()):
        try:
            log.info("%s", _install(plugin, target / plugin.name))
        except OSError as error:
            refused.append(f"{target / plugin.name}: {error.strerror}")
    if refused:
        raise KernelError(f"install CNI plugins: {'; '.join(refused)}; is the directory mounted and writable?")


def _install(ours: Path, theirs: Path) -> str:
    """What was done, in a line."""
    new = _age(ours)
    if theirs.exists():
        old = _age(theirs)
        if not old.older(new):
            why = "kept" if old.version or old.protocol else f"kept, for it does not say its version; remove it to get {new}"
            return f"{theirs}: {old}, {why}"
        done = f"{theirs}: {new} replaces {old}"
    else:
        done = f"{theirs}: {new} installed"
    temporary = theirs.with_name(f".{theirs.name}.new")
    try:
        with ours.open("rb") as reader, temporary.open("wb") as writer:
            shutil.copyfileobj(reader, writer)
            writer.flush()
            os.fchmod(writer.fileno(), 0o755)
            os.fsync(writer.fileno())
        temporary.rename(theirs)
    finally:
        temporary.unlink(missing_ok=True)
    return done


def _age(plugin: Path) -> Age:
    """What it prints when it is run without a command; empty if it cannot be run or says something else."""
    said = ""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        run = subprocess.run(  # noqa: S603 - the kubelet runs it as well
            [plugin], env={}, stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWER_SECONDS, check=False
        )
        said = (run.stdout + run.stderr).decode(errors="replace")
    version = re.search(r"^CNI .* v(\d+(?:\.\d+)*)", said, re.MULTILINE)
    protocols = re.search(r"^CNI protocol versions supported: (.*)$", said, re.MULTILINE)
    spoken = [_numbers(word) for word in protocols.group(1).split(",")] if protocols else []
    return Age(version=_numbers(version.group(1)) if version else (), protocol=max(spoken, default=()))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in re.findall(r"\d+", text))
