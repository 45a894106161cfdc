import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph.passes import dead_code, identities, transposes
from tests.engine.graph.support import build, check, node, normal, operators, value


@settings(max_examples=30, deadline=None)
@given(first=st.permutations(range(4)), second=st.permutations(range(4)))
def test_two_become_one_or_none(first: list[int], second: list[int]) -> None:
    model = build(
        [
            node("Transpose", ["x"], ["a"], perm=first),
            node("Transpose", ["a"], ["b"], perm=second),
            node("Neg", ["b"], ["y"]),
        ],
        [value("x", ["A", "B", "C", "D"])],
        [value("y", None)],
    )
    graph = check(model, [transposes, identities, dead_code], {"x": normal(2, 3, 4, 5)}, rounds=2)
    merged = [first[i] for i in second]
    assert operators(graph) == (["Neg"] if merged == [0, 1, 2, 3] else ["Transpose", "Neg"])


def test_default_permutation_reverses() -> None:
    model = build(
        [
            node("Transpose", ["x"], ["a"]),
            node("Transpose", ["a"], ["b"]),
            node("Neg", ["b"], ["y"]),
        ],
        [value("x", ["A", "B", "C"])],
        [value("y", None)],
    )
    graph = check(model, [transposes, dead_code], {"x": normal(2, 3, 4)})
    assert operators(graph) == ["Neg"]


def test_inner_transpose_stays_for_others() -> None:
    model = build(
        [
            node("Transpose", ["x"], ["a"], perm=[1, 0]),
            node("Transpose", ["a"], ["b"], perm=[1, 0]),
            node("Exp", ["a"], ["z"]),
            node("Neg", ["b"], ["y"]),
        ],
        [value("x", ["A", "B"])],
        [value("y", None), value("z", None)],
    )
    graph = check(model, [transposes, dead_code], {"x": np.abs(normal(2, 3))})
    assert sorted(operators(graph)) == ["Exp", "Neg", "Transpose"]
