"""What `wigglenet-operator plan` prints, to the letter; `nox -s golden` writes it anew."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = "examples/three-nodes.yaml"
COMMAND = (sys.executable, "-m", "wigglenet_operator", "plan")


@pytest.mark.parametrize("node", ["b", "d"])
def test_the_plan_of_the_example_is_the_golden_one(node: str, request: pytest.FixtureRequest) -> None:
    golden = ROOT / f"tests/golden/three-nodes-{node}.txt"
    printed = subprocess.run([*COMMAND, EXAMPLE, "--node", node], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    if request.config.getoption("--update-golden"):
        golden.write_text(printed)

    assert printed == golden.read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((EXAMPLE, "--node", "z"), "has no Node z; it has a, b, c, d"),
        (("README.md", "--node", "b"), "README.md"),
        (("nowhere.yaml", "--node", "b"), "it must be what `kubectl get nodes -o yaml` prints"),
    ],
)
def test_a_plan_that_cannot_be_made_says_why_and_exits_with_2(arguments: tuple[str, ...], told: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plan_is_made_by_the_settings_in_the_environment(tmp_path: Path) -> None:
    (tmp_path / "pods").write_text("10.77.0.0/24\n")
    settings = {"POD_CIDR_SOURCE_IPV4": "file", "POD_CIDR_SOURCE_PATH": f"{tmp_path}/pods", "NATIVE_ROUTING_IPV6": "on"}
    command = [*COMMAND, EXAMPLE, "--node", "b"]
    printed = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=True).stdout

    assert 'annotation wigglenet/pod-cidrs=["fd00:10:2::/64","10.77.0.0/24"]' in printed
    assert not [line for line in printed.splitlines() if line.startswith("route") and "::" in line]


def test_run_with_wrong_settings_exits_with_2_and_one_message() -> None:
    environment = {"WIGGLENET_MTU": "big"}
    done = subprocess.run([*COMMAND[:-1], "run"], env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "wigglenet-operator: the settings are wrong:"
    assert len(done.stderr.splitlines()) == 4
