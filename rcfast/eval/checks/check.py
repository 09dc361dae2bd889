"""What a check says: asked of what, what was measured, pass or fail, why it matters and what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["pass", "fail", "not applicable"]


@dataclass(frozen=True)
class Kind:
    """A check as such: its name, why it matters and what to do where it fails."""

    name: str
    why: str
    advice: str

    def passes(self, about: str, measured: str, **numbers: Any) -> Check:
        return Check(self, about, "pass", measured, numbers)

    def fails(self, about: str, measured: str, **numbers: Any) -> Check:
        return Check(self, about, "fail", measured, numbers)

    def decides(self, good: bool, about: str, measured: str, **numbers: Any) -> Check:
        return Check(self, about, "pass" if good else "fail", measured, numbers)

    def does_not_apply(self, about: str, measured: str) -> Check:
        return Check(self, about, "not applicable", measured)


@dataclass(frozen=True)
class Check:
    """One verdict. about: the network, defence or attack that was asked; numbers: what `measured` says, as data."""

    kind: Kind
    about: str
    verdict: Verdict
    measured: str
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return self.verdict == "fail"

    def record(self) -> dict[str, Any]:
        """Everything as JSON-able values, for results.json."""
        return {
            "check": self.kind.name,
            "about": self.about,
            "verdict": self.verdict,
            "measured": self.measured,
            "why": self.kind.why,
            "advice": self.kind.advice,
            "numbers": self.numbers,
        }


def share(part: int, whole: int) -> str:
    """A count as text: 3 of 12."""
    return f"{part:,} of {whole:,}"
