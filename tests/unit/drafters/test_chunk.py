"""Chunks: the text, its scores and the chances left over are those of one token at a time; the host reads once each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sprinter.core.records import Counters, Emitted
from sprinter.core.sampling import Dice, Sampling
from sprinter.drafters import chunk
from sprinter.drafters.ahead import ChunkDrafter
from sprinter.drafters.base import Drafter
from sprinter.drafters.chunk import ChunkProgram, fits
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine, Limits
from sprinter.errors import BackendError
from sprinter.gates.ahead import Ahead
from sprinter.gates.base import Gate, Scorer
from sprinter.gates.budget import BudgetGate
from sprinter.gates.fixed import FixedGate, OpenGate
from sprinter.gates.threshold import ThresholdGate
from sprinter.gates.verifier import Verifier
from sprinter.models.checkpoint import DraftInfo, open_checkpoint, write_draft
from sprinter.models.fast import cuda as fast_cuda
from sprinter.models.fast import model as fast
from sprinter.models.fast import torch_runner as fast_runner
from sprinter.models.fast.config import Architecture
from sprinter.models.fast.cuda import CudaRunner
from sprinter.models.fast.model import FastModel
from sprinter.observers.audit import Audit
from sprinter.rules.base import AcceptanceRule
from sprinter.rules.exact import ExactRule
from sprinter.rules.greedy import GreedyRule
from sprinter.rules.vouched import VouchedRule
from tests.support.recorded import recorded
from tests.support.tiny import CONTEXT, VOCAB, WIDTH, save_model
from tests.support.verifiers import ALL_FEATURES, CURVE, random_verifier

NEW, NOISE = 24, 0.15
GREEDY, WARM = Sampling(0.0), Sampling(0.8)
# What the default verifier reads: nothing of the round, so its chunks may outlive one.
ROUNDLESS = tuple(f for f in ALL_FEATURES if f not in ("since_target", "previous_score"))
GATES: dict[str, Callable[[Scorer], Gate]] = {
    "sprinter": lambda scorer: ThresholdGate(scorer, 0.55),
    "often full": lambda scorer: ThresholdGate(scorer, 0.3, max_draft=3),
    "lookahead": lambda scorer: ThresholdGate(scorer, 0.6, lookahead=0.2),
    "budget": lambda scorer: BudgetGate(scorer, 40.0),
    "fixed": lambda scorer: FixedGate(3),
    "draft alone": lambda scorer: OpenGate(),
}


@dataclass
class Written:
    """A text with all that could differ."""

    emitted: list[Emitted]
    next_uniform: float
    counters: Counters
    losses: list[float] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        return [e.id for e in self.emitted]

    @property
    def scores(self) -> list[float | None]:
        return [e.score for e in self.emitted]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(draft, target): the draft is the target with some noise in its weights, so some of its tokens stand."""
    place = tmp_path_factory.mktemp("pair")
    draft, target = (save_model(place / name, seed=2, num_hidden_layers=2) for name in ("draft", "target"))
    weights, noise = load_file(draft / "model.safetensors"), torch.Generator().manual_seed(0)
    noisy = {name: w + NOISE * w.std() * torch.randn(w.shape, generator=noise) for name, w in weights.items()}
    save_file(noisy, draft / "model.safetensors", metadata={"format": "pt"})
    return draft, target


def rule_of(gate: str, sampling: Sampling) -> AcceptanceRule:
    if gate == "fixed":
        return GreedyRule() if sampling.greedy else ExactRule()
    return VouchedRule()


def write(
    pair: tuple[Path, Path],
    length: int,
    sampling: Sampling,
    gate: str = "sprinter",
    verifier: Verifier | None = None,
    prompt: tuple[int, ...] = (5, 9, 40, 5, 9),
    eos: frozenset[int] = frozenset(),
    **program: Any,
) -> Written:
    """NEW tokens with chunks of `length`; 0 drafts one at a time and scores on the host."""
    draft, target = (FastModel.load(folder, "float32") for folder in pair)
    verifier = verifier or random_verifier(WIDTH, seed=3)
    drafter: Drafter
    if length:
        drafter = ChunkDrafter(ChunkProgram(draft, sampling, VOCAB, length, verifier, **program))
    else:
        drafter = ModelDrafter(draft, sampling, VOCAB)
    scorer = Ahead(verifier) if length else verifier
    limits = Limits(VOCAB, CONTEXT, eos)
    engine = Engine(target, drafter, GATES[gate](scorer), rule_of(gate, sampling), sampling, limits)
    dice, audit = Dice(np.random.default_rng(7)), Audit()
    run = engine.start(prompt, NEW, dice, audit)
    return Written(list(run), dice.uniform(), run.counters, audit.tv_losses)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
def test_any_chunk_length_writes_the_very_same(pair: tuple[Path, Path], gate: str, sampling: Sampling) -> None:
    features = ALL_FEATURES if gate in ("sprinter", "lookahead") else ROUNDLESS
    verifier = random_verifier(WIDTH, features, 3, curve=CURVE)
    one = write(pair, 1, sampling, gate, verifier)
    for length in (2, 5):
        many = write(pair, length, sampling, gate, verifier)
        assert many.emitted == one.emitted  # ids, origins and scores, bit for bit
        assert many.losses == one.losses
        assert many.next_uniform == one.next_uniform
        assert many.counters.target_calls == one.counters.target_calls
        assert many.counters.gate_steps == one.counters.gate_steps


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
def test_a_chunk_writes_what_drafting_and_scoring_on_the_host_writes(
    pair: tuple[Path, Path], gate: str, sampling: Sampling
) -> None:
    host, device = write(pair, 0, sampling, gate), write(pair, 4, sampling, gate)
    assert device.ids == host.ids
    assert [e.origin for e in device.emitted] == [e.origin for e in host.emitted]
    assert device.next_uniform == host.next_uniform
    for mine, plain in zip(device.scores, host.scores, strict=True):
        if gate not in ("fixed", "draft alone"):
            assert (mine is None) == (plain is None)
            # float32 sums in another order
            assert mine is None or plain is None or abs(mine - plain) < 1e-5
    assert np.allclose(device.losses, host.losses, atol=1e-4)


def test_these_texts_stop_inside_chunks_and_roll_back(pair: tuple[Path, Path]) -> None:
    origins = set()
    for sampling in (GREEDY, WARM):
        for gate in ("sprinter", "lookahead"):
            made = write(pair, 5, sampling, gate)
            origins |= {e.origin for e in made.emitted}
            assert made.counters.draft_steps > made.counters.gate_steps
    assert origins == {"vouched", "tested", "resampled", "bonus"}


def test_the_host_reads_once_per_chunk(pair: tuple[Path, Path]) -> None:
    reads: list[tuple[int, ...]] = []

    def counting(source: Tensor) -> Any:
        reads.append(tuple(source.shape))
        return source.numpy().copy()

    made = write(pair, 4, WARM, fetch=counting)
    assert made.counters.draft_steps == 4 * len(reads)
    assert len(reads) < made.counters.gate_steps
    assert {shape[0] for shape in reads} == {4}


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
def test_repeating_recorded_operations_on_the_same_memory_is_enough(
    pair: tuple[Path, Path], sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a CUDA graph does: Python decided nothing after the first chunk, and no operation waited for a number."""
    plain = write(pair, 4, sampling)
    captures: list[int] = []

    def counting(work: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
        captures.append(1)
        return recorded(work, device)

    monkeypatch.setattr(chunk, "capture", counting)
    repeated = write(pair, 4, sampling)
    assert repeated.emitted == plain.emitted
    assert repeated.counters.draft_steps > 4
    assert len(captures) == 1


class OnTheCpu(CudaRunner):
    """What runs a model on a GPU, without one."""

    def __init__(self, arch: Architecture, tensors: Mapping[str, Tensor], embed: Tensor) -> None:
        super().__init__(arch, tensors, embed, "cpu")


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
@pytest.mark.parametrize("gate", ["lookahead", "often full"])
def test_draft_and_target_work_together_as_on_a_gpu(
    pair: tuple[Path, Path], sampling: Sampling, gate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both models replay what was recorded, target calls in padded widths, catching up included."""
    plain = write(pair, 0, sampling, gate)
    monkeypatch.setattr(fast, "TorchRunner", OnTheCpu)
    monkeypatch.setattr(fast_cuda, "capture", recorded)
    monkeypatch.setattr(chunk, "capture", recorded)
    made = write(pair, 4, sampling, gate)
    assert made.ids == plain.ids
    assert made.next_uniform == plain.next_uniform
    assert np.allclose(made.losses, plain.losses, atol=1e-4)


def test_a_cache_that_grows_is_captured_again(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = write(pair, 0, WARM)
    captures: list[int] = []

    def counting(work: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
        captures.append(1)
        return recorded(work, device)

    monkeypatch.setattr(chunk, "capture", counting)
    monkeypatch.setattr(fast_runner, "_FIRST_CAPACITY", 8)
    assert write(pair, 4, WARM).ids == expected.ids
    assert len(captures) == 3  # 8, 16, 32 positions


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
@pytest.mark.parametrize("room", [1, 2, 3, 7])
@pytest.mark.parametrize("gate", ["sprinter", "draft alone"])
def test_a_chunk_ends_with_the_context_window(
    pair: tuple[Path, Path], sampling: Sampling, room: int, gate: str
) -> None:
    prompt = tuple(np.random.default_rng(room).integers(2, VOCAB, CONTEXT - room).tolist())
    one, many = (write(pair, length, sampling, gate, prompt=prompt) for length in (1, 5))
    assert len(one.ids) == room
    assert many.emitted == one.emitted
    assert write(pair, 0, sampling, gate, prompt=prompt).ids == one.ids


def test_steps_beyond_the_window_leave_nothing_behind(pair: tuple[Path, Path]) -> None:
    """After a chunk that ran into the end, the cache and the text still serve shorter texts rightly."""
    model = FastModel.load(pair[0], "float32")
    program = ChunkProgram(model, GREEDY, VOCAB, 6, random_verifier(WIDTH, ROUNDLESS))
    tokens = np.random.default_rng(0).integers(2, VOCAB, CONTEXT).tolist()
    first = program.launch(chunk.Request(tokens[:-3])).proposals
    assert len(first) == 4
    full = [*tokens[:-3], *(p.token for p in first[:3] if p)]
    (last,) = program.launch(chunk.Request(full)).proposals
    assert (last and (last.token, last.score)) == (first[3] and (first[3].token, first[3].score))
    assert len(program.launch(chunk.Request(tokens)).proposals) == 1
    again = program.launch(chunk.Request(tokens[:-3])).proposals
    assert [(p.token, p.score) for p in again if p] == [(p.token, p.score) for p in first if p]
    expected = FastModel.load(pair[0], "float32").forward(tokens, 1).logits
    assert np.allclose(model.forward(tokens, 1).logits, expected, atol=1e-4)


def test_nothing_follows_the_end_of_text(pair: tuple[Path, Path]) -> None:
    free = write(pair, 1, WARM).ids
    ended = False
    for place in (3, 7, 12):
        eos = frozenset({free[place]})
        one, many = (write(pair, length, WARM, eos=eos) for length in (1, 6))
        assert many.emitted == one.emitted
        ended = ended or (one.ids[-1] in eos and len(one.ids) < NEW)
    assert ended


def test_a_draft_with_a_head_of_few_tokens(pair: tuple[Path, Path], tmp_path: Path) -> None:
    source = open_checkpoint(pair[0])
    shared = "model.embed_tokens.weight"
    own = {name: source.tensor(name) for name in source.names if name not in (shared, "lm_head.weight")}
    info = DraftInfo((shared,), open_checkpoint(pair[1]).fingerprint, None, "")
    ids = sorted(np.random.default_rng(1).choice(VOCAB, 60, replace=False).tolist())
    write_draft(tmp_path / "draft", {**source.config, "tie_word_embeddings": True}, own, info, ids)
    for sampling in (GREEDY, WARM):
        draft, found = FastModel.load(tmp_path / "draft", "float32", target=pair[1]), []
        for drafter in (
            ModelDrafter(draft, sampling, VOCAB),
            ChunkDrafter(ChunkProgram(draft, sampling, VOCAB, 4, random_verifier(WIDTH))),
        ):
            dice, tokens = Dice(np.random.default_rng(3)), [1, 2, 3]
            for _ in range(12):
                proposal = drafter.propose(tokens, dice, Counters())
                assert proposal.law.prob(proposal.token) > 0
                tokens = [*tokens, proposal.token]
            found.append(tokens)
        assert found[0] == found[1]
        assert set(found[0][3:]) <= set(ids)


def test_a_law_is_the_one_the_host_computes_and_logits_come_where_asked_for(pair: tuple[Path, Path]) -> None:
    model = FastModel.load(pair[0], "float32")
    plain = ModelDrafter(FastModel.load(pair[0], "float32"), WARM, VOCAB - 5)
    drafter = ChunkDrafter(ChunkProgram(model, WARM, VOCAB - 5, 3, None, logits=True))
    tokens, one, other = [4, 5, 6], Dice(np.random.default_rng(0)), Dice(np.random.default_rng(0))
    for _ in range(7):
        mine, known = drafter.propose(tokens, one, Counters()), plain.propose(tokens, other, Counters())
        assert mine.token == known.token
        assert mine.score is None
        assert np.allclose(mine.law.probs, known.law.probs, atol=1e-6)
        assert np.allclose(mine.logits, known.logits, atol=1e-4)
        assert known.hidden is not None and np.allclose(mine.hidden, known.hidden, atol=1e-4)  # type: ignore[arg-type]
        tokens = [*tokens, mine.token]


def test_damaged_weights_are_reported_and_leave_nothing_to_build_upon(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "draft", seed=1, num_hidden_layers=1, tie_word_embeddings=False)
    plain = ChunkDrafter(ChunkProgram(FastModel.load(folder, "float32"), GREEDY, VOCAB, 4))
    tokens = [3, 4, 5]
    second = plain.propose([*tokens, plain.propose(tokens, dice(), Counters()).token], dice(), Counters()).token
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][second] = torch.nan  # what the third step reads
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    drafter = ChunkDrafter(ChunkProgram(FastModel.load(folder, "float32"), GREEDY, VOCAB, 4))
    for _ in range(2):
        tokens = [*tokens, drafter.propose(tokens, dice(), Counters()).token]
    for _ in range(2):
        with pytest.raises(BackendError, match="NaN or infinite"):
            drafter.propose(tokens, dice(), Counters())
    assert np.isfinite(drafter.model.forward(tokens[:-1], 1).logits).all()


def dice() -> Dice:
    return Dice(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(0.0), True),
        (Sampling(0.0, top_k=5, top_p=0.5), True),  # greedy leaves them nothing to do
        (Sampling(0.7), True),
        (Sampling(0.7, top_k=5), False),
        (Sampling(0.7, top_p=0.9), False),
        (Sampling(0.7, min_p=0.1), False),
        (Sampling(0.0, repetition_penalty=1.1), False),
        (Sampling(0.0, banned=(3,)), False),
    ],
)
def test_what_a_chunk_can_draw(sampling: Sampling, expected: bool) -> None:
    assert fits(sampling) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_captured_chunks_equal_eager_ones_on_the_gpu(
    pair: tuple[Path, Path], sampling: Sampling, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn() -> tuple[list[int], list[float | None]]:
        model = FastModel.load(pair[0], weights, device="cuda")
        drafter = ChunkDrafter(ChunkProgram(model, sampling, VOCAB, 4, random_verifier(WIDTH, curve=CURVE)))
        chances, tokens = Dice(np.random.default_rng(5)), [5, 9, 40, 5, 9]
        found: list[int] = []
        scores: list[float | None] = []
        for step in range(30):
            proposal = drafter.propose(tokens, chances, Counters())
            found.append(proposal.token)
            scores.append(proposal.score)
            tokens = [*tokens, proposal.token] if step % 7 else [*tokens[:-1], 11]  # every seventh falls
        return found, scores

    tokens, scores = drawn()
    monkeypatch.setattr(chunk, "capture", lambda work, device: work)
    eager_tokens, eager_scores = drawn()
    assert tokens == eager_tokens
    # A library may choose another kernel where it may not allocate.
    assert scores == pytest.approx(eager_scores, abs=1e-2 if weights == "bfloat16" else 1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_chunk_on_the_gpu_waits_for_nothing_but_its_one_copy(pair: tuple[Path, Path]) -> None:
    model = FastModel.load(pair[0], "bfloat16", device="cuda")
    program = ChunkProgram(model, GREEDY, VOCAB, 4, random_verifier(WIDTH))
    tokens = [5, 9, 40, 5, 9]
    program.launch(chunk.Request(tokens))
    download, waits = program._fetch, []

    def fetch(source: Tensor) -> Any:
        waits.append(1)
        torch.cuda.set_sync_debug_mode("default")
        rows = download(source)
        torch.cuda.set_sync_debug_mode("error")
        return rows

    program._fetch = fetch
    torch.cuda.set_sync_debug_mode("error")  # any other wait raises
    try:
        for token in (7, 8):
            tokens = [*tokens, token]
            program.launch(chunk.Request(tokens))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 2
