"""A rank of an on-policy program: trains on what it asks, and notes what it was given. For threads, processes and torchrun.

python asking_ranks.py SETTINGS, with the fields of `Rank` as JSON, and `group`, a file at which the ranks of a process group
meet, if there is one.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from tutelage import KafkaSink, KafkaSource, OnPolicy, QueryWriter, Student

ROWS, PARTITIONS = 2, 4
#: Keys that every batch has, in the order of the digest.
KEYS = ("x", "y", "query_id", "policy_version")


@dataclass(kw_only=True)
class Rank:
    """One rank.

    Args:
        topics: The topics of answers; the first one's queries are what all of them answer.
        folder: Where the state and the notes are.
        rank: This rank; None for that of the environment.
        ranks: How many there are.
        size: Rows of a step of all ranks.
        steps: How many steps the program has.
        stop: Behind how many steps to leave; None for all.
        lag: The most updates that weights are behind.
        run_id: The run; None to agree on one.
        pause_s: How long an update takes.
        kafka: The arguments of sinks and sources.
    """

    topics: list[str]
    folder: str
    rank: int | None = None
    ranks: int = 2
    size: int = 16
    steps: int = 6
    stop: int | None = None
    lag: int = 2
    run_id: str | None = "asked"
    pause_s: float = 0.0
    timeout_s: float = 60.0
    kafka: dict[str, Any] = field(default_factory=dict)

    @property
    def shard(self) -> Any:
        return "auto" if self.rank is None else (self.rank, self.ranks)

    def student(self) -> Student:
        """A student of the queries and of all answers."""
        merge = {"y": "mean"} if len(self.topics) > 1 else None
        student = Student(merge, sample_id="query_id", timeout_s=self.timeout_s, shard=self.shard)
        for topic in (self.asked, *self.topics):
            student.register_teacher(KafkaSource(topic, **self.kafka))
        return student

    @property
    def asked(self) -> str:
        """The topic of queries."""
        return f"{self.topics[0]}.queries"

    def train(self) -> int:
        """Train, and return how many rows were generated."""
        sink = KafkaSink(self.asked, partitions=PARTITIONS, **self.kafka)
        queries = QueryWriter(sink, rows_per_record=ROWS, run_id=self.run_id, shard=self.shard)
        with queries, self.student() as student:
            rank = student.shard.rank
            state = Path(self.folder, "state.json")
            mine = Path(self.folder, f"rank{rank}.json")
            if (saved := mine if mine.exists() else state).exists():
                student.load(saved)
            loop = OnPolicy(
                student,
                queries,
                lambda step: {"x": loop.row_numbers(step)},
                global_batch_size=self.size,
                steps=self.steps,
                max_policy_lag=self.lag,
            )
            with Path(self.folder, f"rank{rank}.txt").open("a", encoding="utf-8") as notes:
                print(json.dumps({"run": queries.run_id, "begins": loop.step}), file=notes)
                for batch in loop:
                    assert batch["x"].tolist() == loop.row_numbers(loop.step).tolist()
                    given = {key: batch[key].tolist() for key in KEYS}
                    note = {"step": loop.step, "lag": loop.policy_lag, **given}
                    print(json.dumps(note), file=notes, flush=True)
                    # In place of the optimizer's step.
                    time.sleep(self.pause_s)
                    student.save(mine)
                    if loop.step + 1 == self.stop:
                        break
                generated = loop.generated_rows
                print(json.dumps({"generated": generated}), file=notes)
            return generated


def notes_of(folder: Path, name: str) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]]]:
    """Read a rank's notes: what it was given in each step, the same each time, and the others.

    The last note of a rank that was killed may be cut.
    """
    given: dict[int, dict[str, Any]] = {}
    others = []
    for line in (folder / name).read_text(encoding="utf-8").splitlines():
        try:
            note = json.loads(line)
        except ValueError:
            continue
        if "step" not in note:
            others.append(note)
        else:
            assert given.setdefault(note["step"], note) == note, "a step is given as before"
    return given, others


def digest_of_ranks(ranks: Iterable[Mapping[int, dict[str, Any]]], steps: int) -> str:
    """A digest of all rows of all steps, in the order of the run, whichever rank had them."""
    rows = []
    for given in ranks:
        for step, note in given.items():
            rows += [
                (x, step, values) for x, *values in zip(*(note[key] for key in KEYS), strict=True)
            ]
    rows.sort()
    found = sorted({step for _, step, _ in rows})
    assert found == list(range(steps)), found
    # Rows are numbered from 0 on: each was given once.
    assert [x for x, _, _ in rows] == list(range(len(rows)))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def start(
    environment: Mapping[str, str], *, group: Path | None = None, **fields: Any
) -> subprocess.Popen[bytes]:
    """Start a rank as a process; what it prints goes to its folder.

    Args:
        environment: The environment of a command that finds the stack.
        group: Where the ranks of a process group meet; None for no group.
        **fields: The fields of `Rank`.
    """
    settings = json.dumps({**fields, "group": group and str(group)})
    with Path(fields["folder"], f"rank{fields['rank']}.err").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, __file__, settings],
            env={**environment, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )


def steps_of(folder: Path, rank: int) -> int:
    """How many steps a rank has been given so far."""
    path = folder / f"rank{rank}.txt"
    return len(notes_of(folder, path.name)[0]) if path.exists() else 0


def main() -> None:
    """Train as a rank; in a process group, leave once and start again."""
    torch.set_num_threads(1)
    fields = json.loads(sys.argv[1])
    if (group := fields.pop("group")) is None:
        Rank(**fields).train()
        return
    rank, ranks = fields.pop("rank"), fields["ranks"]
    distributed.init_process_group(
        "gloo", init_method=f"file://{group}", rank=rank, world_size=ranks
    )
    for stop in (3, None):
        Rank(**fields, stop=stop).train()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
