"""Operator sets: which versions a model asks for, and which one gives a node its meaning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final

import onnx
from onnx import NodeProto, OperatorSetIdProto, defs

from engine.errors import ModelError
from engine.graph.structure import (
    attribute_graphs,
    function_key,
    node_label,
    standard_domain,
)

CONTRIBUTED: Final = "com.microsoft"
"""Domain without schemas here; `engine.graph.contributed` knows its operators."""

_ADOPTED: Final = frozenset({"SimplifiedLayerNormalization"})
"""Contributed operators that exporters write into the standard domain, which has none of them."""

_STILL_MEANT: Final = {("GroupNormalization", 18): "InstanceNormalization"}
"""Operators whose schema is marked as withdrawn but says what they do, and others of their form.

GroupNormalization of version 18 has a scale per group, that of version 21 per channel.
"""


def newest_opset(domain: str) -> int:
    """Newest version of a standard operator set, 0 where the domain has no schemas."""
    return _newest().get(domain, 0)


@cache
def _newest() -> dict[str, int]:
    found: dict[str, int] = {}
    for schema in defs.get_all_schemas_with_history():
        found[schema.domain] = max(found.get(schema.domain, 0), schema.since_version)
    found[""] = max(found[""], defs.onnx_opset_version())
    return found


def opset_versions(imports: Iterable[OperatorSetIdProto]) -> dict[str, int]:
    """Version per domain; the standard domain is ``""``."""
    return {standard_domain(item.domain): item.version for item in imports}


def check_versions(model: onnx.ModelProto, where: str) -> None:
    """Refuse versions that are missing, contradictory or newer than known. Raises ModelError."""
    if not 1 <= model.ir_version <= onnx.IR_VERSION:
        raise ModelError(
            f"{where}: ONNX IR version {model.ir_version} is not supported; the newest supported "
            f"is {onnx.IR_VERSION}; export the model with an older IR version"
        )
    if not model.opset_import and model.ir_version < 3:
        model.opset_import.add(domain="", version=1)
    groups = [(where, model.opset_import)]
    groups += [(f"{where}: function {f.name!r}", f.opset_import) for f in model.functions]
    for place, imports in groups:
        seen: dict[str, int] = {}
        for item in imports:
            domain = standard_domain(item.domain)
            newest = newest_opset(domain)
            shown = domain or "ai.onnx"
            if seen.setdefault(domain, item.version) != item.version:
                raise ModelError(f"{place}: imports two versions of the operator set {shown}")
            if item.version < 1 or (newest and item.version > newest):
                raise ModelError(
                    f"{place}: operator set {shown} version {item.version} is not supported; the "
                    f"newest supported is {newest or 'any'}; export the model with an older opset"
                )


def check_operators(model: onnx.ModelProto, where: str) -> None:
    """Refuse operators that nothing defines. Raises ModelError."""
    functions = {(standard_domain(f.domain), f.name, f.overload) for f in model.functions}
    adopted: list[NodeProto] = []

    def check(nodes: Iterable[NodeProto], opsets: Mapping[str, int]) -> None:
        for node in nodes:
            if function_key(node) not in functions:
                if not standard_domain(node.domain) and node.op_type in _ADOPTED:
                    node.domain = CONTRIBUTED
                    adopted.append(node)
                operator_version(node, opsets, f"{where}: {node_label(node)}")
            for graph in attribute_graphs(node):
                check(graph.node, opsets)

    opsets = opset_versions(model.opset_import)
    check(model.graph.node, opsets)
    for function in model.functions:
        check(function.node, opset_versions(function.opset_import) or opsets)
    if adopted:
        for imports in (model.opset_import, *(f.opset_import for f in model.functions)):
            if imports and not any(item.domain == CONTRIBUTED for item in imports):
                imports.add(domain=CONTRIBUTED, version=1)


def withdrawn_form(node: NodeProto, opset: int) -> str | None:
    """Operator of the same form as a withdrawn one that is still known, None for any other node."""
    names = {name for name, _ in _STILL_MEANT}
    if standard_domain(node.domain) or node.op_type not in names:
        return None
    schema = defs.get_schema(node.op_type, opset)
    return _STILL_MEANT.get((node.op_type, schema.since_version))


def operator_version(node: NodeProto, opsets: Mapping[str, int], where: str) -> int:
    """Version of its domain since which the operator has had the meaning the node asks for.

    Contributed operators have the imported version of their domain (1 without import). Raises
    ModelError for an unknown operator or domain.
    """
    domain = standard_domain(node.domain)
    if domain == CONTRIBUTED:
        return opsets.get(domain, 1)
    if not newest_opset(domain):
        raise ModelError(
            f"{where}: operator {domain}.{node.op_type} is not in any known operator set and the "
            "model does not define it as a function; export the model with standard ONNX "
            "operators, or with the function's body included"
        )
    opset = opsets.get(domain)
    if opset is None:
        raise ModelError(
            f"{where}: it belongs to operator set {domain or 'ai.onnx'!r}, which the model does "
            "not import; export the model again"
        )
    try:
        schema = defs.get_schema(node.op_type, opset, domain)
    except defs.SchemaError:
        versions = sorted(
            s.since_version
            for s in defs.get_all_schemas_with_history()
            if s.name == node.op_type and s.domain == domain
        )
        hint = (
            f"it exists since version {versions[0]}"
            if versions
            else "no version has it; export the model with standard ONNX operators"
        )
        raise ModelError(
            f"{where}: operator {node.op_type!r} is unknown in version {opset} of operator set "
            f"{domain or 'ai.onnx'}; {hint}"
        ) from None
    if schema.deprecated and (node.op_type, schema.since_version) not in _STILL_MEANT:
        raise ModelError(
            f"{where}: operator {node.op_type!r} was removed in version {schema.since_version} "
            f"of operator set {domain or 'ai.onnx'}; export the model with an older opset"
        )
    return schema.since_version
