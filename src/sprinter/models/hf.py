"""Any causal language model of transformers, for rows of many texts."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import RLock, local
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sprinter.core.rows import EVERYTHING, FloatArray, IntArray, ModelInfo, Needs, Part, Views
from sprinter.errors import BackendError, ConfigError
from sprinter.models.base import check_blocks, check_distinct, check_finite, check_part, facts_of, thinner
from sprinter.models.checkpoint import Checkpoint, load_torch_draft, open_checkpoint
from sprinter.models.hf_blocks import block_of, has_blocks, without_blocks

if TYPE_CHECKING:
    from sprinter.models.hf_cache import HFCache

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


CHUNK = 512  # rows of one text in a pass; more would need memory for nothing

Said = tuple[FloatArray, FloatArray]  # logits [wanted, width] and hidden states [wanted, hidden] of one part


class HFModel:
    """A transformers model behind the protocol.

    The hidden state is read where the output head reads it, so it fits every architecture. One text's chain is a plain
    pass over its own cache. Trees and several texts are one padded pass under an own mask, where the architecture
    bears it (`gives.trees`); else the texts of a pass go one after the other, and trees are refused.

    Some models (Phi-3 with longrope) rotate all rows of a pass by other frequencies as soon as one lies at `turn` or
    behind. A row at place p follows from a text all of whose p + 1 rows are rotated as transformers would rotate them
    in one pass; so no pass crosses the turn with views of both sides, and where a text crosses it, either way, its
    cache is read anew. These models give no trees.
    """

    def __init__(self, model: Any, name: str, fingerprint: str, head_tokens: Tensor | None = None) -> None:
        """`model`: a PreTrainedModel in eval mode; `head_tokens` [width] restricts its head to these ids."""
        self._model = model
        self.head_tokens: IntArray | None = None
        if head_tokens is not None:
            self.head_tokens = head_tokens.cpu().numpy().astype(np.int64)
            _restrict_head(model, head_tokens)
        self._heard = local()
        model.get_output_embeddings().register_forward_pre_hook(self._hear)
        self._slices_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._lock = RLock()
        self._turn = _turn(model.config)
        self.info = _describe(model, name, fingerprint, self.head_tokens is not None)

    @classmethod
    def load(cls, path: Path, weights: str = "float32", device: str = "cpu", target: Path | None = None) -> HFModel:
        """Open a model folder, a shared draft of `target`, or a GGUF file. Raises BackendError.

        `weights`: one of `DTYPES`. Never loads a pickle and never runs code that comes with a model.
        """
        if weights not in DTYPES:
            raise BackendError(f"the hf backend has no {weights} weights: choose one of {', '.join(DTYPES)}")
        checkpoint = open_checkpoint(path)
        dtype = DTYPES[weights]
        head_tokens: Tensor | None = None
        if checkpoint.draft is not None:
            if target is None:
                raise BackendError(f"{path} borrows its embedding from its target: name the target with --target")
            model, head_tokens = load_torch_draft(path, target, dtype)
        else:
            model = _load_plain(checkpoint, dtype)
        return cls(model.eval().to(device), path.name, checkpoint.fingerprint, head_tokens)

    @property
    def module(self) -> Any:
        """The transformers model, its head restricted to `head_tokens`: for training code that runs batches."""
        return self._model

    @cached_property
    def gives(self) -> Needs:
        """Everything, but trees only where a masked pass says what plain ones say, blocks only where we know them."""
        return replace(EVERYTHING, trees=self._bears_masks(), blocks=has_blocks(self._model))

    def without(self, left_out: Collection[int]) -> HFModel:
        """See `core.rows.Model.without`. Raises ConfigError where the architecture's blocks are not known."""
        if not has_blocks(self._model):
            raise ConfigError(f"{self.info.name} has other layers than an attention and an MLP: none can be left out")
        check_blocks(self.info, left_out)
        saved = sum(p.numel() for block in left_out for p in block_of(self._model, block).parameters())
        info = thinner(self.info, left_out, saved)
        view = HFModel(without_blocks(self._model, left_out), info.name, info.fingerprint)
        view.head_tokens, view.info = self.head_tokens, info
        return view

    def open(self) -> HFCache:
        from sprinter.models.hf_cache import HFCache  # noqa: PLC0415 - imports transformers, which takes seconds

        return HFCache(self)

    def forward(self, parts: Sequence[Part]) -> list[Views]:
        check_distinct(parts)
        caches = [self._own(part) for part in parts]
        for cache, part in zip(caches, parts, strict=True):
            check_part(self.info, part, cache.positions_of(part))
        with self._lock:
            marks = [cache.mark() for cache in caches]
            try:
                said = self._in_chunks(parts) if self._turn is None else [self._around_turn(part) for part in parts]
            except BaseException:
                for cache, mark in zip(caches, marks, strict=True):
                    cache.roll_back(mark)
                raise
        return [_views(pieces) for pieces in said]

    def embedding(self, token: int) -> FloatArray:
        with torch.inference_mode():
            row: FloatArray = self._model.get_input_embeddings().weight[token].float().cpu().numpy()
            return row

    def _own(self, part: Part) -> HFCache:
        cache: Any = part.cache
        if getattr(cache, "owner", None) is not self:
            raise ConfigError(f"{self.info.name} was given the cache of another model")
        found: HFCache = cache
        return found

    def _in_chunks(self, parts: Sequence[Part]) -> list[list[Said]]:
        said: list[list[Said]] = [[] for _ in parts]
        for start in range(0, max((len(part.tokens) for part in parts), default=0), CHUNK):
            due = [i for i, part in enumerate(parts) if start < len(part.tokens)]
            for i, one in zip(due, self._pass([_rows(parts[i], start, start + CHUNK) for i in due]), strict=True):
                said[i].append(one)
        return said

    def _around_turn(self, part: Part) -> list[Said]:
        """A chain whose rows before the turn and behind it are read in a cache rotated for them."""
        if part.parents is not None:
            raise BackendError(f"{self.info.name} reads no trees: its rotary frequencies change within a text")
        assert self._turn is not None
        said, num_near = [], max(0, self._turn - self._own(part).length)
        # Where the text goes on behind the turn, rows before it are read for their views only.
        if len(part.tokens) - part.wanted < num_near or len(part.tokens) <= num_near:
            said += self._read(_rows(part, 0, num_near), far=False, turn=self._turn)
            part = _rows(part, num_near, len(part.tokens))
        return said + self._read(part, far=True, turn=self._turn) if part.tokens else said

    def _read(self, part: Part, far: bool, turn: int) -> list[Said]:
        cache = self._own(part)
        if cache.far != far:
            part = Part(cache, [*cache.tokens, *part.tokens], part.wanted)
            cache.restart(far)
        said, start, first = [], 0, cache.length
        while start < len(part.tokens):
            # Rows before the turn are rotated as those behind it only by a pass that reaches behind it.
            stop = max(start + CHUNK, turn + 1 - first) if far else start + CHUNK
            said += self._compute([_rows(part, start, stop)], cache.columns)
            start = stop
        return said

    def _pass(self, parts: Sequence[Part]) -> list[Said]:
        """What the model says of the wanted rows of `parts`, whose caches then hold them."""
        plain = all(self._own(part).is_chain(part) for part in parts)
        if (len(parts) > 1 or not plain) and self.gives.trees:
            return self._masked_pass(parts)
        if not plain:
            raise BackendError(
                f"{self.info.name} reads no trees: its architecture takes no attention masks from outside"
            )
        return [self._compute([part], self._own(part).columns)[0] for part in parts]

    def _masked_pass(self, parts: Sequence[Part]) -> list[Said]:
        """Any rows of any texts under masks of our own, padded to the longest part."""
        from sprinter.models.hf_cache import Company, additive, sight  # noqa: PLC0415 - as in `open`

        caches = [self._own(part) for part in parts]
        places = [cache.positions_of(part) for cache, part in zip(caches, parts, strict=True)]
        num_new = [len(part.tokens) for part in parts]
        masks = {}  # [texts, 1, rows, columns] by kind of layer
        for kind, window in (_windows(self._model.config) or {}).items():
            seen = [sight(c, part, at, window) for c, part, at in zip(caches, parts, places, strict=True)]
            masks[kind] = additive(seen, self._model.dtype, self._model.device)
        return self._compute(
            parts,
            caches[0].columns if len(parts) == 1 else Company([cache.columns for cache in caches], num_new),
            # Models with one kind of layers take one mask, all others a mask for each kind.
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            position_ids=self._padded(places),
        )

    def _compute(self, parts: Sequence[Part], columns: Any, **options: Any) -> list[Said]:
        """One call of the model, whose transformers cache `columns` are the texts' own."""
        if self._slices_logits:
            options["logits_to_keep"] = max(1, *(part.wanted for part in parts))
        with torch.inference_mode():
            self._heard.listens = True
            try:
                ids = self._padded([part.tokens for part in parts])  # [texts, rows]
                logits = self._model(input_ids=ids, past_key_values=columns, use_cache=True, **options).logits
                hidden = self._heard.hidden
            finally:
                self._heard.listens, self._heard.hidden = False, None
        said = []
        for part, own_logits, own_hidden in zip(parts, logits, hidden, strict=True):
            said.append((_last(own_logits, part.wanted), _last(own_hidden, part.wanted)))
            check_finite(self.info.name, said[-1][0])
        for part in parts:
            cache = self._own(part)
            cache.add(part, cache.positions_of(part))
        return said

    def _padded(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """[texts, rows], zeros before the shorter ones: so the wanted rows of all texts are the last ones."""
        longest = max(len(row) for row in rows)
        return torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=self._model.device)

    def _hear(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        # The module may be the caller's own, and at work for them in another thread.
        if getattr(self._heard, "listens", False):
            self._heard.hidden = args[0]

    def _bears_masks(self) -> bool:
        """Whether a masked pass over two texts, one of them a tree, says what a plain pass says."""
        config = self._model.config.get_text_config()
        if _windows(config) is None or self._turn is not None:
            return False
        # Path 0, 2, 3 of the tree is 2, 3, 4 of the chain, at columns that are not its positions.
        chain = [(7 * i + 2) % self.info.vocab_size for i in range(8)]
        tree, parents = [chain[2], chain[5], chain[3], chain[4]], [-1, -1, 0, 2]
        window = getattr(config, "sliding_window", None)
        with self._lock:
            try:
                if window is not None:
                    # So short that a mask without it, or on the wrong layers, would show.
                    config.sliding_window = 3
                plain, other = self.open(), self.open()
                ((_, wanted),) = self._pass([Part(plain, chain, len(chain))])
                plain.truncate(2)
                (_, branch), (_, line) = self._masked_pass(
                    [Part(plain, tree, 4, parents), Part(other, chain, len(chain))]
                )
            except BackendError:
                raise  # NaN: the weights are damaged, whatever the masks
            except Exception:
                return False  # stranger code raises anything where a mask does not suit it
            finally:
                if window is not None:
                    config.sliding_window = window
        error = max(np.abs(branch[[0, 2, 3]] - wanted[2:5]).max(), np.abs(line - wanted).max())
        exact = self._model.dtype in (torch.float32, torch.float64)
        return bool(error <= (1e-3 if exact else 0.1) * np.abs(wanted).max())


def _rows(part: Part, start: int, stop: int) -> Part:
    """The rows of `part` from `start` to before `stop`."""
    stop = min(stop, len(part.tokens))
    wanted = max(0, stop - max(start, len(part.tokens) - part.wanted))
    return Part(part.cache, part.tokens[start:stop], wanted, None if part.parents is None else part.parents[start:stop])


def _last(rows: Tensor, wanted: int) -> FloatArray:
    """The last `wanted` of `rows` [rows, width] as float64 or float32."""
    kept = rows[len(rows) - wanted :]
    array: FloatArray = (kept if kept.dtype == torch.float64 else kept.float()).cpu().numpy()
    return array


def _views(pieces: list[Said]) -> Views:
    logits, hidden = pieces[0] if len(pieces) == 1 else (np.concatenate(kind) for kind in zip(*pieces, strict=True))
    return Views(logits, hidden, facts_of(logits))


def _turn(config: Any) -> int | None:
    """The place from which on a row makes transformers rotate its whole pass by other frequencies."""
    # The other scaling that changes with the length, "dynamic", sets in behind max_position_embeddings.
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope] if "rope_type" in rope else [kind for kind in rope.values() if isinstance(kind, dict)]
    turns = [kind["original_max_position_embeddings"] for kind in kinds if kind.get("rope_type") == "longrope"]
    return int(min(turns)) if turns else None


def _windows(config: Any) -> dict[str, int | None] | None:
    """How many positions each kind of layer looks back (None: all), or None for what our masks do not do."""
    text = config.get_text_config()
    # Windows in other words: these count columns, which are no positions in a tree or a padded pass.
    if any(getattr(text, name, None) for name in ("window_size", "attention_types", "attention_chunk_size")):
        return None
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None)
    if not kinds:
        return {"full_attention": window}
    known = {"full_attention": None, "sliding_attention": window}
    return {kind: known[kind] for kind in sorted(set(kinds))} if known.keys() >= set(kinds) else None


def _load_plain(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path = checkpoint.path
    # Without the refusal transformers would ask on stdin whether to run code that came with the model.
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": False, "output_loading_info": True}
    try:
        if checkpoint.is_gguf:
            model, found = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, **options)
        else:
            model, found = AutoModelForCausalLM.from_pretrained(
                str(path), use_safetensors=True, local_files_only=True, **options
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackendError(f"cannot load {path} as a causal language model: {reason}") from error
    # transformers fills what is missing with random numbers and goes on.
    lost = sorted(found["missing_keys"])
    if lost:
        raise BackendError(f"{path} lacks {len(lost)} tensors of its config.json, {lost[0]} first: copy it again")
    return model


def _restrict_head(model: Any, head_tokens: Tensor) -> None:
    """Replace the output layer by its rows `head_tokens` [width]."""
    full = model.get_output_embeddings()
    with torch.inference_mode():
        head = nn.Linear(full.in_features, len(head_tokens), bias=full.bias is not None, dtype=full.weight.dtype)
        head.weight.copy_(full.weight[head_tokens])
        if full.bias is not None:
            head.bias.copy_(full.bias[head_tokens])
    # Assigned in place of the old module, the new one is no longer tied to the embedding table.
    model.set_output_embeddings(head)


def _describe(model: Any, name: str, fingerprint: str, restricted: bool) -> ModelInfo:
    config = model.config.get_text_config()
    head, lookup = model.get_output_embeddings(), model.get_input_embeddings()
    total = sum(p.numel() for p in model.parameters())
    # parameters() names a tied table once; it multiplies as the head though not as the lookup.
    tied = head.weight is lookup.weight
    multiplied = total if tied else total - lookup.weight.numel()
    context_length = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 20
    return ModelInfo(
        name=name,
        vocab_size=lookup.weight.shape[0] if restricted else head.weight.shape[0],
        context_length=int(context_length),
        hidden_size=int(config.hidden_size),
        num_layers=int(config.num_hidden_layers),
        num_parameters=multiplied,
        bytes_per_step=multiplied * head.weight.element_size(),
        fingerprint=fingerprint,
        backend="hf",
        weights=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
    )
