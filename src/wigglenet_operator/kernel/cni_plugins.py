"""The CNI plugins on the node: ours where there is none or an older one. Source: CNI spec 1.1.0, `pkg/skel` (about text).

Runs before the agent, with nothing but the plugins' directory of the node.
"""

import contextlib
import logging
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel.files import replace

log = logging.getLogger(__name__)
ANSWER_SECONDS = 10.0
"""A plugin that is asked for its version answers at once, unless it is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Age:
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
    """Put each plugin of `source` into `target` where it is missing or older; KernelError naming each that is missing still.

    A plugin that is as new, that does not say how old it is, or that is a link stays; one that cannot be replaced does its
    work as before. Each is replaced in one step, so that a pod that starts meanwhile finds the old one or the new one.
    """
    try:
        plugins = sorted(source.iterdir())
    except OSError as error:
        raise KernelError(f"read {source}: {error.strerror}") from error
    refused = []
    for plugin in plugins:
        theirs = target / plugin.name
        try:
            _install(plugin, theirs)
        except OSError as error:
            if theirs.exists():
                log.warning("%s: stays as it is, for it cannot be replaced: %s", theirs, error.strerror)
            else:
                refused.append(f"{theirs}: {error.strerror}")
    if refused:
        raise KernelError(f"install CNI plugins: {'; '.join(refused)}; is the directory mounted and writable?")


def _install(ours: Path, theirs: Path) -> None:
    """Install one, or say why not."""
    new = _age(ours)
    if theirs.is_symlink():
        log.warning("%s: a link, kept; remove it to get %s", theirs, new)
    elif not theirs.exists():
        replace(theirs, ours.read_bytes(), mode=0o755)
        log.info("%s: %s installed", theirs, new)
    elif (old := _age(theirs)).older(new):
        replace(theirs, ours.read_bytes(), mode=0o755)
        log.info("%s: %s replaces %s", theirs, new, old)
    elif old.version or old.protocol:
        log.info("%s: %s, kept", theirs, old)
    else:
        log.warning("%s: kept, for it does not say its version; remove it to get %s", theirs, new)


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
