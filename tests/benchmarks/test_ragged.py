"""Sentences of mixed lengths: every form holds the same sentences."""

from benchmarks import ragged


def test_every_form_holds_every_sentence() -> None:
    whole = sorted(tokens.tolist() for tokens in ragged.sentences())
    assert len(whole) == ragged.SENTENCES
    assert all(ragged.SHORTEST <= len(tokens) <= ragged.LONGEST for tokens in whole)
    for form in (ragged.padded, ragged.lanes, ragged.alone):
        found = [
            ids[kept.astype(bool)].tolist()
            for batch in form()
            for ids, kept in zip(batch["ids"], batch["mask"], strict=True)
        ]
        assert sorted(found) == whole
    assert len(ragged.padded()) == 1
    assert all(batch["mask"].all() for batch in ragged.lanes())
