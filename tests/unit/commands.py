"""The command line for tests: in this process, or as a program of its own.

A program takes 0.3 to 1.2 s of CPU to start, nearly all of it for imports. A test starts one only if the start itself counts:
the exit status that a shell sees, a standard output that cannot be written, the environment that a library reads on import.
"""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from wigglenet_operator import cli

ENVIRONMENT = {"HOME": "/nonexistent"}
"""Of every command, so that no kubeconfig of this machine is read."""


class Ended(NamedTuple):
    """What a command leaves."""

    status: object
    output: str
    errors: str


def ended(*arguments: str, program: str = "wigglenet-operator", **environment: str) -> Ended:
    """`main()` in this process with this environment only; what would be a traceback of a program is raised."""
    with (
        _stream(errors="strict") as output,
        _stream(errors="backslashreplace") as errors,
        Path(os.devnull).open("wb") as nothing,
        mock.patch.object(cli, "STDOUT", nothing.fileno()),  # a command that is cut off replaces it
        mock.patch.object(sys, "argv", [program, *arguments]),
        mock.patch.dict(os.environ, {**ENVIRONMENT, "COLUMNS": "80", **environment}, clear=True),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return Ended(caught.value.code, _written(output), _written(errors))


def started(*arguments: str, **environment: str) -> Ended:
    """The same of `python -m wigglenet_operator`."""
    done = subprocess.run(
        [sys.executable, "-m", "wigglenet_operator", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**ENVIRONMENT, "PYTHONPATH": ":".join(filter(None, sys.path)), **environment},
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def _stream(*, errors: str) -> io.TextIOWrapper:
    """A standard stream as Python opens it, but that a carriage return stays one."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors, newline="", write_through=True)


def _written(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()
