"""What a model asks of its precision, before it is known where it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from engine.precision import KINDS, Precision

_MOST_NODES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class PrecisionChoice:
    """`kind` is None where the model leaves it to whoever loads it.

    `keep` and `first` are those of `engine.Precision`; they count only where the kind is bf16.
    """

    kind: str | None = None
    keep: tuple[str, ...] = ()
    first: int | None = None

    def over(self, default: str | None) -> Precision:
        """The precision to load with, where the loader's own choice is `default`."""
        kind = self.kind or default or "fp32"
        return Precision.of(kind) if kind == "fp32" else Precision.of(kind, self.keep, self.first)

    def or_else(self, kind: str | None) -> PrecisionChoice:
        """The same choice, with another kind where it names none."""
        return PrecisionChoice(self.kind or kind, self.keep, self.first)

    def body(self) -> dict[str, Any]:
        """The choice as a message holds it."""
        return {"kind": self.kind, "keep": list(self.keep), "first": self.first}

    @classmethod
    def read(cls, body: Any) -> PrecisionChoice | None:
        """The choice that a message holds; all defaults where there is none, None if not valid."""
        if body is None:
            return cls()
        if not isinstance(body, dict):
            return None
        kind, keep, first = body.get("kind"), body.get("keep", []), body.get("first")
        named = isinstance(keep, list) and len(keep) <= _MOST_NODES
        valid = (
            (kind is None or kind in KINDS)
            and named
            and all(isinstance(name, str) for name in keep)
            and (first is None or (type(first) is int and first >= 0))
        )
        return cls(kind, tuple(keep), first) if valid else None


UNSPECIFIED: Final = PrecisionChoice()
"""What a model asks for that says nothing."""
