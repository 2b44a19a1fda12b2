"""What the init step does to the plugins of a node."""

import errno
import logging
import os
from pathlib import Path

import pytest

from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel.cni_plugins import install_plugins

DEBIAN = "CNI ptp plugin version unknown\nCNI protocol versions supported: 0.4.0, 1.0.0"
OURS = "CNI ptp plugin v1.10.0\nCNI protocol versions supported: 0.4.0, 1.0.0, 1.1.0"


def plugin(path: Path, says: str) -> Path:
    """A plugin that tells its version as real ones do: to whom runs it without a command."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n[ -z \"$CNI_COMMAND\" ] && printf '%s\\n' '{says}' >&2\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return plugin(tmp_path / "ours/ptp", OURS).parent


def installed(source: Path, theirs: Path) -> bool:
    """Whether ours is there afterwards, and nothing else of us."""
    install_plugins(source, theirs.parent)
    assert not list(theirs.parent.glob(".*"))
    return theirs.read_bytes() == (source / "ptp").read_bytes() and os.access(theirs, os.X_OK)


def test_a_missing_plugin_is_installed(source: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()

    assert installed(source, tmp_path / "bin/ptp")


@pytest.mark.parametrize(
    ("says", "replaced"),
    [
        ("CNI ptp plugin v1.9.1\nCNI protocol versions supported: 1.0.0, 1.1.0", True),
        ("CNI ptp plugin v1.10.0\nCNI protocol versions supported: 1.0.0, 1.1.0", False),
        ("CNI ptp plugin v1.11.0\nCNI protocol versions supported: 1.0.0", False),
        (DEBIAN, True),
        ("CNI ptp plugin version unknown\nCNI protocol versions supported: 1.0.0, 1.1.0", False),
        ("CNI ptp plugin version unknown\nCNI protocol versions supported: 1.0.0, 1.2.0", False),
        ("something else", False),
    ],
)
def test_only_what_is_certainly_older_is_replaced(source: Path, tmp_path: Path, says: str, replaced: bool) -> None:  # noqa: FBT001 - a table
    theirs = plugin(tmp_path / "bin/ptp", says)

    assert installed(source, theirs) is replaced


def test_what_cannot_be_run_is_kept_and_named(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = plugin(tmp_path / "bin/ptp", "")
    theirs.write_bytes(b"\x7fELF of another processor")

    with caplog.at_level(logging.INFO):
        assert not installed(source, theirs)
    assert "does not say its version; remove it to get v1.10.0" in caplog.text


def test_a_running_plugin_is_replaced_by_name_and_keeps_its_file(source: Path, tmp_path: Path) -> None:
    theirs = plugin(tmp_path / "bin/ptp", DEBIAN)
    with theirs.open() as running:
        assert installed(source, theirs)
        assert DEBIAN in running.read()


def test_a_link_to_elsewhere_on_the_node_is_kept(source: Path, tmp_path: Path) -> None:
    """Where it leads cannot be seen from the container."""
    link = tmp_path / "bin/ptp"
    link.parent.mkdir()
    link.symlink_to("/somewhere/else/ptp")
    install_plugins(source, link.parent)

    assert str(link.readlink()) == "/somewhere/else/ptp"


def test_one_that_cannot_be_replaced_works_on(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = plugin(tmp_path / "bin/ptp", DEBIAN)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)

    assert not installed(source, theirs)
    assert "stays as it is, for it cannot be replaced: No space left on device" in caplog.text
    theirs.unlink()
    with pytest.raises(KernelError, match="bin/ptp: No space left on device"):
        install_plugins(source, theirs.parent)
    assert list(theirs.parent.iterdir()) == []


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"read .*missing: No such file"):
        install_plugins(tmp_path / "missing", tmp_path)


def test_a_directory_that_is_not_there_is_named_with_what_to_do(source: Path, tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="missing/ptp: No such file or directory; is the directory mounted and writable"):
        install_plugins(source, tmp_path / "missing")
