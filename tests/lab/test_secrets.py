"""The search for secrets finds what it should: a few letters of a key, or a token, wherever an agent may tell of it."""

from base64 import b64decode

import pytest

from tests.lab.lab import Lab
from tests.lab.node import CONFLIST, KEY, LOG, SERVICE_ACCOUNT

PLACES = (LOG, CONFLIST, "/run/wigglenet/boot")


def test_a_few_letters_of_a_key_and_a_token_are_found_wherever_they_are_told(empty_lab: Lab) -> None:
    node = empty_lab.add_node("leaky", agent=False)
    key = node.place.run("wg", "genkey").strip()
    token = node.path(f"{SERVICE_ACCOUNT}/token").read_text()
    for path in (KEY, *PLACES):
        node.path(path).parent.mkdir(parents=True, exist_ok=True)
    node.path(KEY).write_text(f"{key}\n")
    empty_lab.expect_no_secret()
    for secret in (key[:8], b64decode(key).hex(), token):
        for path in PLACES:
            node.path(path).write_text(f"so it is: {secret}, or not")
            with pytest.raises(AssertionError, match=path):
                empty_lab.expect_no_secret()
            node.path(path).unlink()
        empty_lab.annotate("leaky", {"example.org/told": secret})
        with pytest.raises(AssertionError, match="API server"):
            empty_lab.expect_no_secret()
        empty_lab.annotate("leaky", {"example.org/told": None})
    empty_lab.expect_no_secret()
