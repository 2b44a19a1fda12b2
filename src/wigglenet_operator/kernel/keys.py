"""The private key: loaded, made where there is none, never lost. Format: base64 of 32 bytes, as `wg genkey` writes it."""

import base64
import binascii
import logging
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from wigglenet_operator.errors import ConfigError, KernelError
from wigglenet_operator.kernel.files import replace
from wigglenet_operator.model.changes import Changes
from wigglenet_operator.model.facts import PublicKey

log = logging.getLogger(__name__)
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A Curve25519 private key; its value shows in no log, repr or error."""

    raw: bytes = field(repr=False)

    @property
    def public(self) -> PublicKey:
        """The public key that belongs to it."""
        raw = X25519PrivateKey.from_private_bytes(self.raw).public_key().public_bytes_raw()
        return PublicKey(base64.b64encode(raw).decode())


def generate() -> PrivateKey:
    """A fresh key, clamped (RFC 7748, section 5) as WireGuard's tools clamp it."""
    raw = bytearray(secrets.token_bytes(KEY_BYTES))
    raw[0] &= 0xF8
    raw[-1] = (raw[-1] & 0x7F) | 0x40
    return PrivateKey(bytes(raw))


def load_or_create(path: Path) -> PrivateKey:
    """The node's key, in a file that only its owner reads; ConfigError if the file cannot be read, made or tightened.

    A file that holds no key is set aside as `NAME.corrupt-N`, for somebody may still want what is in it.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if os.path.lexists(path):
            if not path.is_file():
                raise ConfigError(f"key file {path} is no file (a directory, or a link to nothing); make it one or remove it")
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
                log.warning("key file %s could be read by others; tightened to 0600", path)
            if key := _parsed(path.read_bytes()):
                return key
            log.error("key file %s holds no key; set aside as %s, and a new one is made", path, _set_aside(path))
        key = generate()
        _write(path, key)
    except OSError as error:
        raise ConfigError(f"key file {path}: {error.strerror}; make it a file in a directory that root may write") from error
    return key


class KeyFileTable:
    """The public key of what is in the key file, by its path: a key in force must outlive the process that has it."""

    def __init__(self, path: Path, key: PrivateKey | None) -> None:
        """`key` is not needed to look at it."""
        self._path, self._key = path, key
        self.stored: PublicKey | None = None
        """What was observed last."""

    async def observe(self) -> dict[str, PublicKey]:
        """Empty if there is no file, or no key in it."""
        self.stored = None
        try:
            found = _parsed(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise KernelError(f"read key file {self._path}: {error.strerror}") from error
        self.stored = found.public if found else None
        return {str(self._path): self.stored} if self.stored else {}

    async def apply(self, changes: Changes[str, PublicKey]) -> None:
        """Write the key in force where there is none; what is there instead is set aside, and nothing is ever removed."""
        if not changes.put:
            return
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if self._path.is_symlink() or self._path.exists():
                log.error("key file %s holds no key any more; set aside as %s", self._path, _set_aside(self._path))
            assert self._key  # noqa: S101 - who only looks writes nothing
            _write(self._path, self._key)
        except OSError as error:
            raise KernelError(f"write key file {self._path}: {error.strerror}") from error


def _write(path: Path, key: PrivateKey) -> None:
    replace(path, base64.b64encode(key.raw) + b"\n", mode=0o600)


def _parsed(text: bytes) -> PrivateKey | None:
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        return None
    return PrivateKey(raw) if len(raw) == KEY_BYTES and any(raw) else None


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    return path.rename(aside)
