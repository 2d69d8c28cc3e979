"""A peer in a process of its own: its libraries, threads and memory cannot slow or change ours, nor ours its.

Parent and child talk in lines of JSON. The child is told what to build and answers with its facts; then, for each run,
`prepare` and `write`. Every id comes out as soon as it is final, so the one clock of a comparison times all methods;
what the pipe adds, about 0.03 ms an id, counts against the peer.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import IO, Any, Final

from sprinter.bench.latency import MemoryPeak, synchronise
from sprinter.bench.methods import Account, Bench, Emit, Spec, Task, parse_specs
from sprinter.build import Pair
from sprinter.config import ModelConfig
from sprinter.core.records import Counters
from sprinter.core.sampling import Sampling
from sprinter.door import Door
from sprinter.errors import BackendError, ConfigError, SprinterError

_LINE: Final = Door(BackendError, "run it with fewer tokens or without this method", most_bytes=16 << 20)


class Apart:
    """A `Method` that another process runs. A process that dies costs the run it dies in; the next starts anew."""

    def __init__(self, spec: Spec, bench: Bench) -> None:
        """Raises what building the peer raises: ConfigError, BackendError."""
        import torch  # noqa: PLC0415 - slow import

        self.name = spec.text
        self._asked = {
            "spec": spec.text,
            "models": dataclasses.asdict(bench.pair.config),
            "sampling": dataclasses.asdict(bench.sampling),
            "weights": bench.peer_weights,
            "threads": torch.get_num_threads(),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.facts: Mapping[str, Any] = self._start()

    def prepare(self, task: Task) -> None:
        """See `Method.prepare`."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        self._tell({"prepare": dataclasses.asdict(task)})
        self._heard("ready")

    def write(self, task: Task, emit: Emit) -> None:
        """See `Method.write`."""
        self._tell({"write": True})
        while (ids := self._heard("ids")) is not None:
            emit(ids)

    def account(self) -> Account:
        """See `Method.account`."""
        told = self._heard("account")
        return Account(**{**told, "counters": Counters(**told["counters"]), "memory_mib": tuple(told["memory_mib"])})

    def _start(self) -> Mapping[str, Any]:
        command = [sys.executable, "-m", "sprinter.bench.apart"]
        # A session of its own: Ctrl-C is for the comparison, which ends the child by closing its input.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        weakref.finalize(self, _end, self._process)
        self._tell(self._asked)
        facts: Mapping[str, Any] = self._heard("facts")
        return facts

    def _tell(self, message: Mapping[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._gone() from error

    def _heard(self, word: str) -> Any:
        """What the child's next line says under `word`; its error is raised here."""
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline(_LINE.most_bytes + 1)
        if not line:
            raise self._gone()
        found = _LINE.parse(line, dict[str, Any], f"the process of {self.name}")
        if "error" in found:
            kind = ConfigError if found["kind"] == "ConfigError" else BackendError
            raise kind(str(found["error"]))
        if word not in found:
            raise BackendError(f"the process of {self.name} says {', '.join(found)} in place of {word}")
        return found[word]

    def _gone(self) -> BackendError:
        assert self._process is not None
        return BackendError(f"the process of {self.name} ended (exit code {self._process.wait(10)})")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the child's input, at which it ends; kill it if it does not."""
    try:
        process.communicate(timeout=5)
    except (subprocess.TimeoutExpired, OSError, ValueError):
        process.kill()
        process.wait()


def serve(asked: IO[bytes], told: IO[bytes]) -> None:
    """The child: build the peer, then run what is asked for until the input ends."""

    def tell(**message: Any) -> None:
        told.write(json.dumps(message).encode() + b"\n")
        told.flush()

    peer: _Peer | None = None
    for line in asked:
        try:
            peer = _answer(peer, json.loads(line), tell)
        except SprinterError as error:
            tell(error=str(error), kind=type(error).__name__)
        except Exception as error:  # whatever a peer raises is told as the failure of that run
            tell(error=f"{type(error).__name__}: {error}"[:500], kind="BackendError")


@dataclasses.dataclass
class _Peer:
    """The child's method, its task and device."""

    method: Any
    device: str
    task: Task | None = None


def _answer(peer: _Peer | None, message: Mapping[str, Any], tell: Callable[..., None]) -> _Peer:
    """The peer after it has done what it was asked."""
    if peer is None:
        peer = _built(message)
        tell(facts=dict(peer.method.facts))
    elif "prepare" in message:
        given = message["prepare"]
        peer.task = Task(tuple(given["prompt"]), given["max_new_tokens"], given["seed"])
        peer.method.prepare(peer.task)
        tell(ready=True)
    elif peer.task is not None:
        memory = MemoryPeak(peer.device)
        with memory:
            peer.method.write(peer.task, lambda ids: tell(ids=[int(i) for i in ids]))
            synchronise(peer.device)
        tell(ids=None)
        account = dataclasses.asdict(peer.method.account())
        tell(account={**account, "memory_mib": (memory.peak_mib, memory.rise_mib)})
    return peer


def _built(asked: Mapping[str, Any]) -> _Peer:
    import torch  # noqa: PLC0415 - slow import

    from sprinter.bench.peers import MAKERS  # noqa: PLC0415 - only the child needs it

    torch.set_num_threads(asked["threads"])
    models = ModelConfig(**asked["models"])
    bench = Bench(Pair(models), Sampling(**asked["sampling"]), peer_weights=asked["weights"])
    (spec,) = parse_specs(asked["spec"])
    return _Peer(MAKERS[spec.kind](spec, bench), models.device)


def main() -> None:
    """Speak on what was standard output; what libraries print goes to standard error."""
    told = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, told)


if __name__ == "__main__":
    main()
