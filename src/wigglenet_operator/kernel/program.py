"""Another program, run to its end."""

import asyncio
from asyncio.subprocess import PIPE
from dataclasses import dataclass

from wigglenet_operator.errors import KernelError

SECONDS = 20.0
"""A deadline: another's long transaction makes nft wait (10,000 rules with sets of their own take 15 s)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What it left."""

    status: int
    """Its exit status, or the number of the signal that ended it, negative."""
    out: str
    err: str
    """What it said, blanks around it left out."""


async def run(*command: str, text: str = "") -> Ended | None:
    """Run it with `text` as its standard input; None if it is not installed, KernelError if it does not end in time."""
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KernelError(f"{' '.join(command)}: {error}") from error
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate(text.encode())
    except TimeoutError:
        hint = "somebody else's transaction may be in the way"
        raise KernelError(f"{' '.join(command)}: no end after {SECONDS:.0f} s; {hint}") from None
    finally:
        if process.returncode is None:
            process.kill()
    return Ended(status=process.returncode or 0, out=out.decode(errors="replace"), err=err.decode(errors="replace").strip())
