"""Damage to files: to their bytes, and to the messages that they hold."""

from __future__ import annotations

from random import Random
from typing import Any, Final

import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]

_INTEGERS: Final = (0, 1, 2, 3, 5, 7, 8, 13, 64, 255, 256, 1000, 65535, 1 << 20, (1 << 31) - 1,
                    1 << 31, 1 << 32, (1 << 40) + 1, (1 << 62), (1 << 63) - 1)  # fmt: skip
"""Numbers at which something may overflow, and small ones."""

_FLOATS: Final = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, float("inf"), float("-inf"), float("nan"))
_DEEPEST: Final = 8


def damage_bytes(data: bytes, other: bytes, random: Random) -> bytes:
    """`data` with one to four changes of bytes; `other` is a file to take parts of."""
    found = bytearray(data)
    for _ in range(random.randint(1, 4)):
        if not found:
            break
        at = random.randrange(len(found))
        kind = random.randrange(7)
        if kind == 0:
            found[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            found[at] = random.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, random.randrange(256)))
        elif kind == 2:
            del found[at : at + random.choice((1, 2, 4, 16, 256))]
        elif kind == 3:
            found[at:at] = found[at : at + random.choice((1, 4, 16, 256))]
        elif kind == 4:
            found[at:at] = random.randbytes(random.choice((1, 2, 4, 9)))
        elif kind == 5:
            del found[at:]
        else:
            begin = random.randrange(len(other) or 1)
            part = other[begin : begin + random.choice((4, 16, 64, 1024))]
            found[at : at + len(part)] = part
    return bytes(found)


def damage_structure(data: bytes, other: bytes, random: Random) -> bytes:
    """The model in `data` with one to five fields changed, removed, doubled or taken from `other`.

    The result is a well-formed message again, unless `data` is none.
    """
    model, donor = onnx.ModelProto(), onnx.ModelProto()
    try:
        model.ParseFromString(data)
        donor.ParseFromString(other)
    except Exception:  # google.protobuf's DecodeError
        return damage_bytes(data, other, random)
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    operators = [node.op_type for node in donor.graph.node] + list(_OPERATORS)
    for _ in range(random.randint(1, 5)):
        message = _somewhere(model, random)
        _change(message, donor, names, operators, random)
    try:
        return bytes(model.SerializeToString())
    except ValueError:  # a message of more than 2 GB
        return data


_OPERATORS: Final = sorted({schema.name for schema in onnx.defs.get_all_schemas()})


def _somewhere(message: Any, random: Random) -> Any:
    """A message inside a message, deeper ones as likely as shallow ones."""
    for _ in range(_DEEPEST):
        inner = [m for m in _inside(message) if m.ByteSize() or random.random() < 0.1]
        if not inner or random.random() < 0.15:
            break
        message = random.choice(inner)
    return message


def _inside(message: Any) -> list[Any]:
    found: list[Any] = []
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            found.extend(value if _is_repeated(field) else [value])
    return found


def _is_repeated(field: Any) -> bool:
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == 3)


def _change(
    message: Any, donor: onnx.ModelProto, names: list[str], operators: list[str], random: Random
) -> None:
    """Change one field of a message: mostly one that is set, at times any other."""
    fields = [field for field, _ in message.ListFields()]
    if not fields or random.random() < 0.1:
        fields = list(message.DESCRIPTOR.fields)
    field = random.choice(fields)
    if _is_repeated(field):
        _change_list(message, field, donor, names, operators, random)
    elif random.random() < 0.15:
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        getattr(message, field.name).SetInParent()
    else:
        value = _value(field, getattr(message, field.name), names, operators, random)
        setattr(message, field.name, value)


def _change_list(
    message: Any,
    field: Any,
    donor: onnx.ModelProto,
    names: list[str],
    operators: list[str],
    random: Random,
) -> None:
    values = getattr(message, field.name)
    kind = random.randrange(5)
    if kind == 0 and len(values):
        del values[random.randrange(len(values))]
    elif kind == 1 and len(values):
        item = values[random.randrange(len(values))]
        values.append(item)
    elif kind == 2 and len(values) > 1:
        first, second = random.sample(range(len(values)), 2)
        kept = list(values)
        kept[first], kept[second] = kept[second], kept[first]
        copies = [_copy(item) for item in kept]
        del values[:]
        values.extend(copies)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        pool = _all(donor, field.message_type.full_name)
        if pool:
            values.append(random.choice(pool))
        else:
            values.add()
    elif len(values) and random.random() < 0.8:
        at = random.randrange(len(values))
        values[at] = _value(field, values[at], names, operators, random)
    else:
        values.append(_value(field, None, names, operators, random))


def _copy(item: Any) -> Any:
    if not hasattr(item, "CopyFrom"):
        return item
    copy = type(item)()
    copy.CopyFrom(item)
    return copy


def _all(message: Any, name: str) -> list[Any]:
    """Messages of one type within a message."""
    found = []
    for inner in _inside(message):
        if inner.DESCRIPTOR.full_name == name:
            found.append(inner)
        found.extend(_all(inner, name))
    return found


def _value(field: Any, value: Any, names: list[str], operators: list[str], random: Random) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return _text(field, value, names, operators, random)
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return random.choice(_FLOATS)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return random.choice([v.number for v in field.enum_type.values])
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return random.random() < 0.5
    number = (
        random.choice(_INTEGERS) if random.random() < 0.7 else (value or 0) + random.choice((-1, 1))
    )
    if random.random() < 0.3:
        number = -number
    bits = 32 if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 64
    signed = kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if field.name in ("data_type", "elem_type", "to"):
        number = random.randrange(-1, 30)
    return min(max(number, low), high)


def _text(field: Any, value: Any, names: list[str], operators: list[str], random: Random) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        data = value or b""
        return random.choice(
            (b"", data[: len(data) // 2], data + b"\0", data * 2, random.randbytes(8), b"linear")
        )
    if field.name == "op_type":
        return random.choice(operators)
    pool = ["", "x", "axis", "\0", "é" * 50, "../weights.bin", "/etc/passwd", *names]
    return random.choice(pool)
