"""Sentences of mixed lengths: ``python -m benchmarks.ragged``.

32 sentences of 5 to 120 tokens: padded to the longest in one batch, as servers do that pay for
every new shape; in lanes of equal length; and, with Packhorse, ragged, as the gateway runs them:
all in one run without padding. Every engine runs in a process of its own; they take turns.
Classifiers of recurrent layers have no mask, so for them padding also changes the answers.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
from pydantic import BaseModel
from rich.status import Status

from benchmarks import engines, options, tables
from benchmarks.models import MODELS, model_path
from benchmarks.provenance import Provenance, collect
from benchmarks.remote import Remote
from benchmarks.turns import Pace, take_turns

SENTENCES, SHORTEST, LONGEST = 32, 5, 120
SEED = 23


Ids = np.ndarray[Any, np.dtype[np.int64]]


def sentences() -> list[Ids]:
    """Token ids, the same in every process and run."""
    rng = np.random.default_rng(SEED)
    return [
        rng.integers(0, 1000, int(length))
        for length in rng.integers(SHORTEST, LONGEST + 1, SENTENCES)
    ]


def _batch(tokens: Sequence[Ids], length: int) -> engines.Arrays:
    """Sentences as rows of a batch, under the names of every model's inputs."""
    ids = np.zeros((len(tokens), length), np.int64)
    mask = np.zeros_like(ids)
    for row, sentence in enumerate(tokens):
        ids[row, : len(sentence)] = sentence
        mask[row, : len(sentence)] = 1
    return {"ids": ids, "mask": mask, "types": np.zeros_like(ids), "tokens": ids}


def padded() -> list[engines.Arrays]:
    """One batch, as long as the longest sentence."""
    found = sentences()
    return [_batch(found, max(map(len, found)))]


def lanes() -> list[engines.Arrays]:
    """One batch per length."""
    groups: dict[int, list[Ids]] = {}
    for tokens in sentences():
        groups.setdefault(len(tokens), []).append(tokens)
    return [_batch(group, length) for length, group in groups.items()]


def alone() -> list[engines.Arrays]:
    """One batch per sentence."""
    return [_batch([tokens], len(tokens)) for tokens in sentences()]


FORMS = {"padded": padded, "lanes": lanes, "ragged": alone}
RAGGED = "ragged"
MODEL_NAMES = ("encoder", "bert_base", "lstm", "gru")


@dataclass
class Host:
    """What runs in the process of an engine."""

    setup: engines.EngineSetup
    path: Path
    inputs: tuple[str, ...]

    def load(self) -> None:
        """Load the model."""
        self._engine = engines.load(self.path, self.setup)

    def block(self, form: str, calls: int, discard: int) -> list[float]:
        """Seconds of all sentences, `calls` times after `discard` more."""
        batches = [{name: batch[name] for name in self.inputs} for batch in FORMS[form]()]
        times = []
        for _ in range(discard + calls):
            begin = perf_counter()
            if form == RAGGED:
                assert isinstance(self._engine, engines.Packhorse)
                self._engine.run_ragged(batches)
            else:
                for batch in batches:
                    self._engine.run(batch)
            times.append(perf_counter() - begin)
        return times[discard:]


@dataclass
class Contestant:
    """One engine with one form of the work, taking turns."""

    name: str
    form: str
    threads: int
    remote: Remote

    def block(self, calls: int, discard: int) -> list[float]:
        """See `benchmarks.turns.Contender`."""
        times: list[float] = self.remote.call("block", self.form, calls, discard)
        return times


class RaggedRow(BaseModel):
    """One engine, one form: least and median seconds for all sentences."""

    engine: str
    form: str
    threads: int
    least: float
    median: float


class RaggedReport(BaseModel):
    """Everything measured."""

    provenance: Provenance
    model: str
    tokens: int
    padded_tokens: int
    rows: list[RaggedRow]


def measure(model: str, threads: int, cache: Path, rounds: int, status: Status) -> list[RaggedRow]:
    """Every engine in every form that it knows."""
    path = model_path(MODELS[model], cache / "models")
    inputs = tuple(MODELS[model].inputs(MODELS[model].tiny, np.random.default_rng(0)))
    with ExitStack() as stack:
        contestants = []
        for name in engines.FP32_ENGINES:
            status.update(f"loading {name}")
            code = str(cache / "code") if name == engines.OURS else None
            setup = engines.EngineSetup(name, threads, cache_dir=code)
            remote = stack.enter_context(Remote(partial(Host, setup, path, inputs)))
            remote.call("load")
            contestants += [
                Contestant(f"{name} {form}", form, threads, remote)
                for form in FORMS
                if form != RAGGED or name == engines.OURS
            ]
        status.update(f"{threads} threads")
        times = take_turns(contestants, Pace(rounds=rounds, block_seconds=1.0))
    return [
        RaggedRow(
            engine=contestant.name.partition(" ")[0],
            form=contestant.form,
            threads=threads,
            least=min(found.seconds),
            median=float(np.median(found.seconds)),
        )
        for contestant, found in zip(contestants, times, strict=True)
    ]


def main(
    model: Annotated[str, typer.Option(help=f"One of {', '.join(MODEL_NAMES)}.")] = "encoder",
    threads: Annotated[str, typer.Option(help="Comma-separated.")] = "1,2",
    rounds: options.Rounds = 5,
    json_file: options.JsonFile = None,
    cache: options.CacheFolder = options.DEFAULT_CACHE,
) -> None:
    """Compare ragged batches with padding and with lanes of equal length."""
    if model not in MODEL_NAMES:
        raise typer.BadParameter(f"--model must be one of {', '.join(MODEL_NAMES)}")
    out = tables.console()
    provenance = collect()
    tables.show_provenance(out, provenance)
    rows = []
    with Status("", console=out) as status:
        for count in options.integers(threads, "--threads"):
            rows += measure(model, count, cache, rounds, status)
    whole = sum(map(len, sentences()))
    shape = padded()[0]["ids"].shape
    table = tables.grid(
        f"{MODELS[model].title}, {SENTENCES} sentences, {whole} tokens "
        f"({shape[0] * shape[1]} with padding)",
        *("threads", "engine", "form", "least", "median", "Packhorse ragged is faster"),
        left=3,
    )
    for row in rows:
        ours = next(
            r for r in rows if (r.engine, r.form, r.threads) == (engines.OURS, RAGGED, row.threads)
        )
        table.add_row(
            str(row.threads),
            row.engine,
            row.form,
            tables.duration(row.least),
            tables.duration(row.median),
            tables.ratio(row.least / ours.least) if row is not ours else "",
        )
    out.print(table)
    report = RaggedReport(
        provenance=provenance,
        model=model,
        tokens=whole,
        padded_tokens=shape[0] * shape[1],
        rows=rows,
    )
    options.write_text(json_file, report.model_dump_json(indent=1))


if __name__ == "__main__":
    typer.run(main)
