"""Runs actionlint over the hosted workflows, with shellcheck for the scripts in them; its exit status."""

import subprocess
import sys
from pathlib import Path

from tests.lab.api.kube_binary import NoBinaryError, find_go

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[2]


def main() -> int:
    """Print what is wrong; 0 if nothing is."""
    try:
        go = find_go(HERE / "go.mod")
    except NoBinaryError as error:
        print(f"workflows: {error}", file=sys.stderr)
        return 1
    files = sorted(str(path) for path in (ROOT / ".github/workflows").glob("*.yaml"))
    assert files, "no workflows"
    done = subprocess.run([go, "tool", "actionlint", *files], cwd=HERE, check=False)
    if not done.returncode:
        print(f"{len(files)} workflows are right")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
