"""What a turn tells: problems by name, and what each step did."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # facts have problems, so that they import this module
    from wigglenet_operator.model.desired import Peer
    from wigglenet_operator.model.facts import NodeName, PublicKey

from wigglenet_operator.model.problems import PROBLEMS, Code, Meaning


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Problem:
    """Something that the administrator should know and can act on; equal problems are the same problem."""

    code: Code
    subject: str
    """What it is about: `node b`, `link wigglenet`, `file /etc/…`."""
    text: str
    """What is wrong and what to do, one line."""

    def __post_init__(self) -> None:
        """What a program or a server says in several lines is told in one."""
        if (lines := self.text.splitlines()) != [self.text]:
            object.__setattr__(self, "text", " ".join(word for line in lines for word in line.split()))

    def __str__(self) -> str:
        """Subject and text in one line."""
        return f"{self.subject}: {self.text}"

    @property
    def meaning(self) -> Meaning:
        """What its code stands for."""
        return PROBLEMS[self.code]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step of a turn wrote, or why it did not."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    error: str = ""
    waits_for: str = ""
    """The step whose failure kept this one from writing what it has to write."""
    pending: bool = False
    """Whether its write, or that of a step that it waits for, still goes on; nothing of it is counted here."""
    seconds: float = field(default=0.0, compare=False)
    """How long it wrote."""

    @property
    def failed(self) -> bool:
        """Whether something was left undone."""
        return bool(self.error or self.waits_for)

    @property
    def wrote(self) -> bool:
        """Whether anything was written."""
        return bool(self.added or self.changed or self.removed)

    def __str__(self) -> str:
        """`+1~2-3`, only the parts that are not zero."""
        counts = (("+", self.added), ("~", self.changed), ("-", self.removed))
        return "".join(f"{sign}{count}" for sign, count in counts if count)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnReport:
    """One turn: steps by name in the order of their application, and all that is wrong."""

    steps: Mapping[str, StepReport]
    problems: frozenset[Problem]
    wireguard: str = ""
    """`kernel`, `userspace` or `none`."""
    mtu: int | None = None
    peers: int = 0
    """Peers that are wanted."""
    handshaken: int = 0
    """Of these, the peers that have shaken hands since the link was made."""
    waiting: bool = False
    """True while there is too little to plan with: nothing was touched but the CNI file, and there are no peers to count."""
    registered: bool = True
    """Whether there is an own Node to publish anything on."""
    contested: frozenset[Problem] = frozenset()
    """Those of the problems that a Node leads to which may be gone without anybody having told."""
    names: "Mapping[PublicKey, NodeName]" = field(default_factory=dict)
    """Of the peers that are wanted."""
    there: "Mapping[PublicKey, Peer] | None" = None
    """The peers that were there when the turn began; None if they were not, or could not be, read."""
    pod_networks: int = 0
    """That are announced in the cluster."""
    repairs: Mapping[str, int] = field(default_factory=dict)
    """By step, how much of what it wrote had been written before and did not last."""

    @property
    def failed(self) -> bool:
        """Whether a step left something undone and wants to be tried again soon."""
        return any(step.failed for step in self.steps.values())

    @property
    def wrote(self) -> bool:
        """Whether any step wrote anything."""
        return any(step.wrote for step in self.steps.values())

    @property
    def phase(self) -> str:
        """`Waiting`, `Degraded` or `Ready`."""
        if self.waiting:
            return "Waiting"
        return "Degraded" if self.failed or self.problems else "Ready"
