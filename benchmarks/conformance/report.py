"""The page that a full run of the suite writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import onnx
from onnx import defs

from benchmarks.conformance.cases import KINDS
from benchmarks.conformance.results import EXCLUDED, Result, counts
from benchmarks.conformance.trial import CRASHED, FAILED, FALLBACK, HUNG, NATIVE

_TITLES = {
    "node": "node",
    "simple": "simple",
    "pytorch-converted": "pytorch-converted",
    "pytorch-operator": "pytorch-operator",
    "real": "light graphs, random weights",
}
_REASONS_SHOWN = 40


def write_report(path: Path, results: list[Result]) -> None:
    """Write the report of a full run in Markdown."""
    path.write_text("\n".join(_lines(results)) + "\n")


def _lines(results: list[Result]) -> Iterator[str]:
    found = counts(results)
    theirs = sum(result.theirs is not None and result.theirs.passed for result in results)
    yield "# Conformance to ONNX"
    yield ""
    yield (
        f"Of the {len(results)} CPU tests in the `onnx` package's backend suite, "
        f"**{found['passed']} pass, {found[NATIVE]} of them natively** (no node on the fallback "
        f"path); {found[EXCLUDED]} are excluded, {found[FAILED]} fail, {found[CRASHED]} crash, "
        f"{found[HUNG]} hang. onnxruntime passes {theirs} in the same run."
    )
    yield ""
    yield (
        f"`python -m benchmarks.conformance --page docs/conformance.md` writes this page; it was "
        f"written with onnx {onnx.__version__} (opset {defs.onnx_opset_version()}), onnxruntime "
        f"{version('onnxruntime')} and numpy {version('numpy')}. Each test loads its model with "
        "`engine.load` and passes by the suite's own comparison (relative 1e-3 unless the test "
        "says otherwise), or where each float tensor differs by at most 1e-4 times its largest "
        "reference element plus 1e-5. Tests run in worker processes with a time limit, so "
        "that a crash or a hang would be a result. The `light_*` graphs carry constant weights, "
        "under which almost any error cancels; they run with seeded random weights against the "
        "outputs of onnxruntime, which therefore passes them by definition (`pytest "
        "tests/conformance` runs one of them, with `--slow` of `scripts/test` the whole suite). "
        "onnxruntime gets every model, those of opsets newer than it knows too; its Python "
        "interface takes no arrays of bfloat16 and of floats and integers of 8 bits and less that "
        "numpy lacks."
    )
    yield ""
    yield from _table(
        "kind", [(_TITLES[kind], [r for r in results if r.kind == kind]) for kind in KINDS]
    )
    yield ""
    yield "## By operator"
    yield ""
    yield (
        "*expanded* functions count under their operator. *native* and *fallback* passed; "
        "a fallback is the `onnx` package's reference implementation in a segment of its own."
    )
    yield ""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.operator, []).append(result)
    yield from _table("operator", sorted(groups.items(), key=lambda item: item[0].lower()))
    yield from _excluded(results)
    yield from _failed(results)
    yield from _fallbacks(results)


def _table(head: str, rows: Iterable[tuple[str, list[Result]]]) -> Iterator[str]:
    yield f"| {head} | tests | native | fallback | failed | excluded | onnxruntime |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for name, group in rows:
        found = counts(group)
        bad = found[FAILED] + found[CRASHED] + found[HUNG]
        theirs = sum(result.theirs is not None and result.theirs.passed for result in group)
        cells = [found[NATIVE], found[FALLBACK], bad, found[EXCLUDED]]
        shown = " | ".join(str(cell) if cell else "" for cell in cells)
        yield f"| {name} | {len(group)} | {shown} | {theirs} |"


def _excluded(results: list[Result]) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for result in results:
        if result.status == EXCLUDED:
            groups.setdefault(result.exclusion or "", []).append(result.name)
    if groups:
        yield from ("", "## Excluded", "")
    for reason, names in groups.items():
        yield f"- {reason}: {_names(names)}"


def _failed(results: list[Result]) -> Iterator[str]:
    failed = [result for result in results if result.status in (FAILED, CRASHED, HUNG)]
    if failed:
        yield from ("", "## Failed", "")
    for result in failed:
        also = "" if result.theirs is None or result.theirs.passed else " (onnxruntime fails too)"
        yield f"- `{result.name}`{also}: {_escaped(result.ours.detail)}"


def _fallbacks(results: list[Result]) -> Iterator[str]:
    """Why tests that pass are not native, most frequent reasons first."""
    reasons: Counter[str] = Counter()
    for result in results:
        if result.status == FALLBACK:
            reasons.update(set(result.ours.fallbacks))
    if reasons:
        yield from ("", "## Why tests fall back", "")
        yield f"The {_REASONS_SHOWN} most frequent reasons, with the number of tests."
        yield ""
    for reason, count in reasons.most_common(_REASONS_SHOWN):
        yield f"- {count}: {_escaped(reason)}"


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
