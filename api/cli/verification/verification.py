"""Runs a model in the engine and in references, case by case, and compares the outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

import engine
from api.cli.errors import CommandError
from api.cli.verification.agreement import Difference, Tolerance, compare
from api.cli.verification.cases import Case
from api.cli.verification.references import MAKERS, Reference, ReferenceRunError
from api.cli.verification.search import Divergence, Search
from engine.errors import EngineError


@dataclass
class Comparison:
    """One case against one reference; `failure` says why there are no differences to show."""

    reference: str
    differences: list[Difference] = field(default_factory=list)
    failure: str = ""

    @property
    def equal(self) -> bool:
        """Whether all outputs are equal to the reference's."""
        return not self.failure and all(d.equal for d in self.differences)


@dataclass
class CaseResult:
    """What came of a case: a comparison per reference, or the engine's own failure."""

    case: Case
    comparisons: list[Comparison] = field(default_factory=list)
    failure: str = ""
    divergence: Divergence | None = None

    @property
    def decisive(self) -> Comparison | None:
        """The comparison that decides: with the first reference that runs the case."""
        return next((c for c in self.comparisons if not c.failure), None)

    @property
    def equal(self) -> bool:
        """Whether the engine's outputs are equal to those of the deciding reference."""
        return not self.failure and self.decisive is not None and self.decisive.equal


class Verification:
    """A model in the engine and in the references that can load it."""

    def __init__(
        self,
        path: Path,
        session: engine.Session,
        references: Sequence[str],
        tolerance: Tolerance,
        isa: str | None = None,
    ) -> None:
        try:
            self._model = onnx.load(path)
        except Exception as error:  # protobuf's and the file system's
            raise CommandError(f"{path} cannot be read: {error}") from None
        self._session = session
        self._tolerance = tolerance
        self._isa = isa
        self._outputs = [spec.name for spec in session.outputs]
        self._references: dict[str, Reference] = {}
        self.refusals: dict[str, str] = {}
        for name in references:
            try:
                self._references[name] = MAKERS[name](self._model, self._outputs)
            except ReferenceRunError as failure:
                self.refusals[name] = str(failure)
        if not self._references:
            listed = "; ".join(f"{name}: {why}" for name, why in self.refusals.items())
            raise CommandError(f"no reference can load {path}: {listed}")

    def run(self, tries: Iterable[Case]) -> CaseResult:
        """Result of the first of some cases that any reference runs, or else of the last."""
        result = None
        for case in tries:
            result = self._run(case)
            if result.decisive is not None:
                break
        assert result is not None, "there is a case to try"
        return result

    def _run(self, case: Case) -> CaseResult:
        result = CaseResult(case)
        wanted = {name: self._expected(name, case) for name in self._references}
        result.comparisons = [
            Comparison(n, failure=w) for n, w in wanted.items() if isinstance(w, str)
        ]
        if len(result.comparisons) == len(wanted):
            return result
        try:
            found = self._session.run(case.inputs)
        except EngineError as error:
            result.failure = str(error)
        result.comparisons = []
        for name, outputs in wanted.items():
            comparison = Comparison(name)
            if isinstance(outputs, str):
                comparison.failure = outputs
            elif not result.failure:
                comparison.differences = [
                    compare(output, outputs[output], found[output], self._tolerance)
                    for output in self._outputs
                ]
            result.comparisons.append(comparison)
        return result

    def _expected(self, name: str, case: Case) -> dict[str, Any] | str:
        try:
            return self._references[name].run(case.inputs)
        except ReferenceRunError as failure:
            return str(failure)

    def locate(self, result: CaseResult) -> None:
        """Find the first differing node of a case that is not equal."""
        decisive = result.decisive
        if decisive is None or result.failure:
            return
        outputs = [d.output for d in decisive.differences if not d.equal]
        threads = int(self._session.stats()["threads"])
        search = Search(self._model, decisive.reference, self._tolerance, threads, self._isa)
        with suppress(ReferenceRunError, EngineError):
            result.divergence = search.first(result.case.inputs, outputs)
