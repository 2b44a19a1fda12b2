"""The own Node's condition NetworkUnavailable, by option: a node whose network is not as it should be gets no new pods."""

import asyncio
from collections.abc import Sequence

from wigglenet_operator.agent.kept import Kept
from wigglenet_operator.agent.ledger import refusal
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem

MESSAGE = 500
"""Characters."""


class Condition(Kept[tuple[str, str]]):
    """Its status and message."""

    _ailing: float | None = None
    """Since when; None if the network is as it should be."""

    def judge(self, reasons: Sequence[str]) -> None:
        """Have it say whether this node's network is unavailable, and why: for these reasons, if they last."""
        now = asyncio.get_running_loop().time()
        if not reasons:
            self._ailing = None
            self.want(("False", "the network of this node is as it should be"), urgent=True)
            return
        self._ailing = now if self._ailing is None else self._ailing
        if now - self._ailing >= self._timing.condition_doubt:
            self.want(("True", reasons[0][:MESSAGE]), urgent=True)

    def problems(self) -> frozenset[Problem]:
        """That the API server refuses it, if it does."""
        return refusal(Code.ConditionFailed, self.refused)
