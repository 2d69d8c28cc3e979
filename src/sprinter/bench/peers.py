"""Other people's decoders on the same weights: transformers' generate, and llama.cpp. They run in `apart`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from sprinter.bench.methods import Account, Bench, Emit, Maker, Spec, Task
from sprinter.build import Pair
from sprinter.core.records import Counters
from sprinter.core.rows import Model, Part
from sprinter.core.sampling import Sampling
from sprinter.errors import ConfigError
from sprinter.models.checkpoint import open_checkpoint

SUBSET_NOTE: Final = (
    "its draft is the same one with the same partial output layer: ids it leaves out have the lowest logit"
)


class HFGenerate:
    """transformers' `generate`: plain, assisted by the draft, or assisted with a lossy ensemble weight.

    Assisted generation runs with the library's own defaults: at most 20 drafted tokens, fewer where the draft's
    confidence falls below 0.4.
    """

    def __init__(
        self, name: str, target: Any, draft: Any, options: Mapping[str, Any], facts: Mapping[str, Any]
    ) -> None:
        """`target`, `draft`: transformers models, `draft` None for plain; `options`: keywords of generate."""
        self.name = name
        self.facts = facts
        self._target, self._draft, self._options = target, draft, dict(options)
        self._counters = Counters()

    def prepare(self, task: Task) -> None:
        import torch  # noqa: PLC0415 - slow import

        torch.manual_seed(task.seed)

    def write(self, task: Task, emit: Emit) -> None:
        import torch  # noqa: PLC0415

        ids = torch.tensor([task.prompt], device=self._target.device)  # [1, prompt]
        options = dict(self._options)
        if self._draft is not None:
            options["assistant_model"] = self._draft
        counters = self._counters = Counters()
        with _Watch(self._target, counters, "target"), _Watch(self._draft, counters, "draft"):
            self._target.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=task.max_new_tokens,
                streamer=_Streamer(emit),
                **options,
            )

    def account(self) -> Account:
        plain = self._draft is None
        # An exact method deviates nowhere; what an ensemble weight loses cannot be told from its output alone.
        delta = None if "assistant_ensemble_weight" in self._options else 0.0
        counters = self._counters
        return Account(counters, tested=counters.target_calls if plain else counters.draft_steps, delta=delta)


class _Streamer:
    """Hands out what generate writes; its first message is the prompt."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._started = False

    def put(self, value: Any) -> None:
        if self._started:
            self._emit(value.reshape(-1).tolist())
        self._started = True

    def end(self) -> None:
        pass


class _Watch:
    """Counts and times a transformers model's forward passes by hooks while it is entered."""

    def __init__(self, model: Any, counters: Counters, part: str) -> None:
        self._model, self._counters, self._part = model, counters, part
        self._handles: list[Any] = []
        self._began = 0.0

    def __enter__(self) -> None:
        if self._model is not None:
            self._handles = [
                self._model.register_forward_pre_hook(self._before, with_kwargs=True),
                self._model.register_forward_hook(self._after),
            ]

    def __exit__(self, *_error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, _module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        ids = args[0] if args else options["input_ids"]
        counters = self._counters
        if self._part == "target":
            counters.target_calls += 1
            counters.target_tokens += ids.shape[1]
        else:
            counters.draft_steps += 1
            counters.draft_tokens += ids.shape[1]
        self._began = perf_counter()

    def _after(self, *_call: Any) -> None:
        seconds = perf_counter() - self._began
        if self._part == "target":
            self._counters.target_s += seconds
        else:
            self._counters.draft_s += seconds


def _hf(spec: Spec, bench: Bench) -> HFGenerate:
    """`hf`, `hf-assisted` or `hf-ensemble:WEIGHT`, WEIGHT the target's share in the ensemble."""
    if spec.options or (spec.value is not None and spec.kind != "hf-ensemble"):
        raise ConfigError(f"method {spec.text!r}: {spec.kind} takes no such setting")
    options = generate_options(bench.sampling, bench.pair)
    if spec.kind == "hf-ensemble":
        weight = 0.5 if spec.value is None else spec.value
        if not 0 < weight < 1:
            raise ConfigError(f"method {spec.text!r}: the weight must lie strictly between 0 and 1")
        options["assistant_ensemble_weight"] = weight
    weights, device = bench.peer_weights, bench.pair.config.device
    target = _hf_model(bench.pair.target_path, None, weights, device)
    draft, notes = None, []
    if spec.kind != "hf":
        draft = _hf_model(bench.pair.draft_path, bench.pair.target_path, weights, device)
        notes = [SUBSET_NOTE] if isinstance(draft.get_output_embeddings(), _subset_head()) else []
    models = [bench.pair.target_path.name, *([bench.pair.draft_path.name] if draft is not None else [])]
    runs_on = [f"{name} (transformers, {weights})" for name in models]
    return HFGenerate(spec.text, target, draft, options, {"runs_on": runs_on, "notes": notes})


def generate_options(sampling: Sampling, pair: Pair) -> dict[str, Any]:
    """Keywords of `generate` for a sampling transform, so that a model's own generation settings do not speak."""
    ends = sorted(pair.tokenizer.eos_ids)
    options: dict[str, Any] = {
        "do_sample": not sampling.greedy,
        "repetition_penalty": sampling.repetition_penalty,
        "eos_token_id": ends or None,
        "pad_token_id": ends[0] if ends else 0,
    }
    if not sampling.greedy:
        options |= {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p or None,
        }
    return options


@lru_cache(maxsize=4)
def _hf_model(path: Path, target: Path | None, weights: str, device: str) -> Any:
    """A transformers model in eval mode, loaded once; `target` lends a shared draft its tensors."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    from sprinter.models.checkpoint import load_torch_draft  # noqa: PLC0415
    from sprinter.models.hf import DTYPES  # noqa: PLC0415

    if weights not in DTYPES:
        raise ConfigError(f"peers run on {', '.join(DTYPES)}, not on {weights!r}")
    dtype: torch.dtype = DTYPES[weights]
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    checkpoint = open_checkpoint(path)
    if checkpoint.draft is not None and target is not None:
        model, ids = load_torch_draft(path, target, dtype)
        if ids is not None:
            model.set_output_embeddings(_subset_head()(model.get_output_embeddings(), ids))
    else:
        options = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
        model = AutoModelForCausalLM.from_pretrained(str(checkpoint.path), **options)
    return model.eval().to(device)


@lru_cache(maxsize=1)
def _subset_head() -> Any:
    """The class of a partial output layer; made late because it needs torch."""
    import torch  # noqa: PLC0415

    class SubsetHead(torch.nn.Module):
        """Logits over the whole vocabulary of which only the rows `ids` [kept] are computed."""

        def __init__(self, full: Any, ids: Any) -> None:
            super().__init__()
            self.ids: torch.Tensor
            self.register_buffer("ids", ids)
            self.weight = torch.nn.Parameter(full.weight.detach()[ids].clone(), requires_grad=False)  # [kept, hidden]
            self.out_features = full.out_features

        def forward(self, hidden: Any) -> Any:
            kept = torch.nn.functional.linear(hidden, self.weight)  # [..., kept]
            lowest = torch.finfo(kept.dtype).min
            logits = kept.new_full((*kept.shape[:-1], self.out_features), lowest)  # [..., vocab]
            return logits.index_copy_(-1, self.ids, kept)

    return SubsetHead


class LlamaCpp:
    """llama.cpp through llama-cpp-python on the target's GGUF file, plain or with our draft model in front."""

    def __init__(self, name: str, model: Any, proposer: Any, bench: Bench, facts: Mapping[str, Any]) -> None:
        """`proposer`: the `_draft_model` of `model`, or None."""
        self.name = name
        self.facts = facts
        self._model, self._proposer, self._sampling = model, proposer, bench.sampling
        self._ends = bench.pair.tokenizer.eos_ids
        self._counters = Counters()
        self._eval = model.eval
        model.eval = self._counted

    def _counted(self, tokens: Sequence[int]) -> None:
        started = perf_counter()
        self._eval(tokens)
        self._counters.target_s += perf_counter() - started
        self._counters.target_calls += 1
        self._counters.target_tokens += len(tokens)

    def prepare(self, task: Task) -> None:
        self._model.reset()
        self._model.set_seed(task.seed)
        if self._proposer is not None:
            self._proposer.restart()

    def write(self, task: Task, emit: Emit) -> None:
        counters = self._counters = Counters()
        if self._proposer is not None:
            self._proposer.counters = counters
        sampling = self._sampling
        stream = self._model.generate(
            list(task.prompt),
            temp=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repeat_penalty=sampling.repetition_penalty,
        )
        for count, token in enumerate(stream, 1):
            emit((token,))
            if count == task.max_new_tokens or token in self._ends:
                stream.close()
                return

    def account(self) -> Account:
        counters = self._counters
        tested = counters.target_calls if self._proposer is None else counters.draft_steps
        return Account(counters, tested=tested, delta=0.0)


def _llamacpp(spec: Spec, bench: Bench) -> LlamaCpp:
    """`llamacpp`, or `llamacpp-draft:K` with K tokens drafted greedily by our draft model for every call."""
    try:
        import llama_cpp  # noqa: PLC0415 - optional
        import torch  # noqa: PLC0415 - slow import
    except ImportError:
        raise ConfigError(f"method {spec.text!r} needs llama.cpp: pip install llama-cpp-python") from None
    if spec.options or (spec.value is not None and spec.kind == "llamacpp"):
        raise ConfigError(f"method {spec.text!r}: {spec.kind} takes no such setting")
    file = _gguf_of(bench.pair)
    proposer, runs_on = None, [f"{file.name} (llama.cpp)"]
    if spec.kind == "llamacpp-draft":
        proposer = _proposer(bench.pair.draft, int(spec.value or 4))
        info = bench.pair.draft.info
        runs_on.append(f"{info.name} ({info.backend}, {info.weights})")
    window = bench.pair.limits(with_draft=proposer is not None).context_length
    model = llama_cpp.Llama(
        model_path=str(file),
        n_ctx=min(window, 2048),
        # By default it takes half of the cores to write and all of them to read.
        n_threads=torch.get_num_threads(),
        n_threads_batch=torch.get_num_threads(),
        logits_all=proposer is not None,
        draft_model=proposer,
        verbose=False,
    )
    return LlamaCpp(spec.text, model, proposer, bench, {"runs_on": runs_on, "version": llama_cpp.__version__})


def _gguf_of(pair: Pair) -> Path:
    """The GGUF file of the target; ConfigError where there is none."""
    from sprinter.zoo.default_pair import find_target_gguf  # noqa: PLC0415

    if pair.config.target == "default":
        file = find_target_gguf()
    else:
        file = pair.target_path if pair.target_path.suffix == ".gguf" else None
    if file is None:
        raise ConfigError("llama.cpp reads GGUF files only, and this target has none")
    return file


def _proposer(draft: Model, length: int) -> Any:
    from llama_cpp.llama_speculative import LlamaDraftModel  # noqa: PLC0415 - optional

    class Proposer(LlamaDraftModel):  # type: ignore[misc]
        """Our draft model behind llama-cpp-python's interface: its `length` most probable next tokens."""

        def __init__(self) -> None:
            self.counters = Counters()
            self._cache = draft.open()
            self._read: list[int] = []  # what the cache holds

        def restart(self) -> None:
            """Forget the text before."""
            self.counters, self._cache, self._read = Counters(), draft.open(), []

        def __call__(self, input_ids: Any, /, **_options: Any) -> Any:
            tokens = [int(token) for token in input_ids]
            for _ in range(length):
                started = perf_counter()
                same = sum(1 for _ in takewhile(lambda own: own[0] == own[1], zip(self._read, tokens, strict=False)))
                self._cache.truncate(min(same, len(tokens) - 1))
                unread = tokens[self._cache.length :]
                (views,) = draft.forward([Part(self._cache, unread, 1)])
                self._read = list(tokens)
                best = int(views.logits[0].argmax())
                tokens.append(best if draft.head_tokens is None else int(draft.head_tokens[best]))
                self.counters.draft_s += perf_counter() - started
                self.counters.draft_steps += 1
                self.counters.draft_tokens += len(unread)
            return input_ids.dtype.type(tokens[-length:])

    return Proposer()


MAKERS: Final[Mapping[str, Maker]] = {
    "hf": _hf,
    "hf-assisted": _hf,
    "hf-ensemble": _hf,
    "llamacpp": _llamacpp,
    "llamacpp-draft": _llamacpp,
}
