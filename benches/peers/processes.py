"""Engines as processes: each answers tasks (see worker.py), and whoever asks sees no difference between them."""

import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

import amx
import roster

HERE = Path(__file__).resolve().parent
# Of one answer; the slowest cell takes well under it.
TIMEOUT_SECONDS = 300


class EngineFailed(Exception):
    """An engine did not start or did not answer."""


def start(entry: roster.Entry, place: roster.Place, threads: int, stream: Path):
    """Loads the engine of `entry` in a process of its own; `stream` is the jsonl file of texts."""
    if entry.engine == "octet":
        return Octet(entry, place, threads, stream)
    return Worker(entry, place, threads)


class Worker:
    """A process that stays loaded between tasks: worker.py or peer-rten."""

    def __init__(self, entry: roster.Entry, place: roster.Place, threads: int):
        if entry.engine == "rten":
            command = [place.rten, place.models / "int8.onnx"]
        else:
            command = [place.python, HERE / "worker.py", "--engine", entry.engine, "--models", place.models]
            command += ["--threads", threads]
        env = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "RTEN_NUM_THREADS": str(threads),
            **{name: value.format(work=place.work) for name, value in entry.env.items()},
        }
        self.name = entry.name
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=env,
            text=True,
            preexec_fn=prepare(entry, threads),
        )
        self.answer()

    def ask(self, task: dict) -> dict:
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        answer = self.answer()
        times = answer.pop("times", None)
        return answer if times is None else {**summary(times), **answer}

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            last = self.errors.read().decode(errors="replace").strip().splitlines()[-12:]
            raise EngineFailed(f"{self.name} ended with status {self.process.returncode}:\n" + "\n".join(last))
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=TIMEOUT_SECONDS)


class Octet:
    """`octet bench`, a process for each task. It makes the ids from the texts itself."""

    def __init__(self, entry: roster.Entry, place: roster.Place, threads: int, stream: Path):
        model = place.float_model if "--float" in entry.flags else place.octet_model
        self.command = [place.octet, "bench", model, "--texts", stream, "--threads", threads, "--json", *entry.flags]
        self.prepare = prepare(entry, threads)

    def ask(self, task: dict) -> dict:
        section = task["task"]
        seconds = task.get("seconds", 1.0)
        arguments = ["--only", section, "--seconds", seconds]
        if section == "grid":
            arguments += ["--cells", task["cell"]]
        done = subprocess.run(
            [str(part) for part in self.command + arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            preexec_fn=self.prepare,
        )
        if done.returncode != 0:
            raise EngineFailed(f"octet bench ended with status {done.returncode}:\n{done.stderr.strip()}")
        (row,) = json.loads(done.stdout)[section]
        return {
            "median": row["median_seconds"],
            "p10": row["p10_seconds"],
            "p90": row["p90_seconds"],
            "runs": row["runs"],
            "percent_of_peak": row["percent_of_peak"],
            "ids_sha256": row["ids_sha256"],
        }

    def close(self) -> None:
        pass


def prepare(entry: roster.Entry, threads: int):
    """What a new process does first: it keeps to as many CPUs as it has threads, and does without AMX if `entry` does."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]

    def in_child() -> None:
        os.sched_setaffinity(0, cpus)
        if not entry.amx:
            amx.refuse()

    return in_child


def summary(times: list[float]) -> dict:
    """Median, p10 and p90 in seconds, and the number of runs."""
    ordered = sorted(times)
    at = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))]
    return {"median": statistics.median(ordered), "p10": at(0.1), "p90": at(0.9), "runs": len(ordered)}
