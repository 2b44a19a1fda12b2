"""What `wigglenet-operator plan` prints, to the letter; `nox -s golden` writes it anew."""

import contextlib
from pathlib import Path

import pytest

from tests.unit.commands import Ended, ended, started

ROOT = Path(__file__).parents[2]
EXAMPLE = "examples/three-nodes.yaml"


def planned(*arguments: str, **settings: str) -> Ended:
    with contextlib.chdir(ROOT):
        return ended("plan", *arguments, **settings)


@pytest.mark.parametrize("node", ["b", "d"])
def test_the_plan_of_the_example_is_the_golden_one(node: str, request: pytest.FixtureRequest) -> None:
    golden = ROOT / f"tests/golden/three-nodes-{node}.txt"
    status, printed, _ = planned(EXAMPLE, "--node", node)
    assert status == 0
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
    status, _, errors = planned(*arguments)

    assert status == 2
    assert told in errors
    assert "Traceback" not in errors


def test_a_plan_is_made_by_the_settings_in_the_environment(tmp_path: Path) -> None:
    (tmp_path / "pods").write_text("10.77.0.0/24\n")
    settings = {"POD_CIDR_SOURCE_IPV4": "file", "POD_CIDR_SOURCE_PATH": f"{tmp_path}/pods", "NATIVE_ROUTING_IPV6": "on"}
    status, printed, _ = planned(EXAMPLE, "--node", "b", **settings)

    assert status == 0
    assert 'annotation wigglenet/pod-cidrs=["fd00:10:2::/64","10.77.0.0/24"]' in printed
    assert not [line for line in printed.splitlines() if line.startswith("route") and "::" in line]


def test_run_with_wrong_settings_exits_with_2_and_one_message() -> None:
    status, _, errors = started("run", WIGGLENET_MTU="big")

    assert status == 2
    assert errors.splitlines()[0] == "wigglenet-operator: the settings are wrong:"
    assert len(errors.splitlines()) == 4


def test_a_program_that_plans_prints_the_same_and_exits_with_0() -> None:
    status, printed, _ = started("plan", str(ROOT / EXAMPLE), "--node", "b")

    assert (status, printed) == (0, (ROOT / "tests/golden/three-nodes-b.txt").read_text())


def test_a_plan_for_userspace_wireguard_reports_no_other_implementation() -> None:
    status, printed, _ = started("plan", str(ROOT / EXAMPLE), "--node", "b", WIGGLENET_WG_IMPLEMENTATION="userspace")

    assert status == 0
    assert "held by" not in printed
