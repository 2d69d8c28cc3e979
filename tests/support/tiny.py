"""Tiny random-weight models of real architectures with a byte-level tokenizer, saved as folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

WIDTH = 32
WINDOW = 7  # of the sliding-window families; shorter than every prompt used with them
CONTEXT = 96
BOS, EOS = "<s>", "</s>"
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("an", "d"), ("Ġ", "and"), ("i", "n"), ("Ġ", "a")]
CHAT_TEMPLATE = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}{% endfor %}[assistant]"

transformers.utils.logging.disable_progress_bar()

_LLAMA_LIKE = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
_GEMMA_LIKE = {**_LLAMA_LIKE, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": WINDOW}
_OPT = {
    "hidden_size": WIDTH,
    "ffn_dim": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {"n_embd": WIDTH, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT}),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "hidden_size": WIDTH,
            "num_layers": 4,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 2]],
            "window_size": WINDOW,
            "intermediate_size": 48,
            "max_position_embeddings": CONTEXT,
        },
    ),
    "opt": ("OPTConfig", {**_OPT, "word_embed_proj_dim": WIDTH}),
    "opt_projected": ("OPTConfig", {**_OPT, "word_embed_proj_dim": 16}),
    "llama": ("LlamaConfig", _LLAMA_LIKE),
    "qwen2": (
        "Qwen2Config",
        {**_LLAMA_LIKE, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": (
        "Qwen3Config",
        {**_LLAMA_LIKE, "head_dim": 8, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "phi3": ("Phi3Config", _LLAMA_LIKE),
    "mistral": ("MistralConfig", {**_LLAMA_LIKE, "sliding_window": WINDOW}),
    "gemma2": ("Gemma2Config", _GEMMA_LIKE),
    "gemma3": (
        "Gemma3TextConfig",
        {**_GEMMA_LIKE, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
}


def fast_tokenizer(merges: list[tuple[str, str]] | None = None) -> Tokenizer:
    """Byte-level BPE over all 256 bytes: every text has ids, and some characters need several."""
    merges = MERGES if merges is None else merges
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [BOS, EOS, *alphabet, *dict.fromkeys(a + b for a, b in merges)]
    bpe = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(BOS, special=True), AddedToken(EOS, special=True)])
    return bpe


def piece_tokenizer() -> Tokenizer:
    """Pieces with byte fallback, as SentencePiece writes them for Llama 2, Mistral and Phi-3."""
    words = ["▁", *"thean", "▁t", "▁a", "▁th", "▁the", "▁an", "▁and", "nd", "d"]
    pieces = ["<unk>", BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    merges = [("▁", "t"), ("▁", "a"), ("▁t", "h"), ("▁th", "e"), ("▁a", "n"), ("▁an", "d"), ("n", "d")]
    bpe = Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bpe.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", BOS, EOS)])
    return bpe


VOCAB = fast_tokenizer().get_vocab_size()


def save_tokenizer(folder: Path, merges: list[tuple[str, str]] | None = None, bos: bool = True) -> None:
    """tokenizer.json and tokenizer_config.json, as transformers writes them."""
    names = {"eos_token": EOS} | ({"bos_token": BOS} if bos else {})
    fast = PreTrainedTokenizerFast(tokenizer_object=fast_tokenizer(merges), **names)
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(str(folder))


def build_model(family: str, seed: int = 0, vocab_size: int = VOCAB, **changes: Any) -> Any:
    """A model whose weights are large enough that its greedy text depends on the whole context."""
    kind, settings = FAMILIES[family]
    config = getattr(transformers, kind)(
        vocab_size=vocab_size, bos_token_id=0, eos_token_id=1, pad_token_id=1, **{**settings, **changes}
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                # Small embeddings (Gemma scales its own up): else a tied head finds the last token in the residual
                # stream and repeats it.
                embedding = 0.05 if family.startswith("gemma") else 0.3
                parameter.normal_(0, embedding if "emb" in name or "wte" in name or "wpe" in name else 0.6)
    # Generation settings of some families ban ids or forbid long texts; parity needs the plain model.
    model.generation_config = transformers.GenerationConfig(bos_token_id=0, eos_token_id=1, pad_token_id=1)
    return model.eval()


def save_model(folder: Path, family: str = "llama", seed: int = 0, vocab_size: int = VOCAB, **changes: Any) -> Path:
    """A whole model folder: config, safetensors, tokenizer."""
    build_model(family, seed, vocab_size, **changes).save_pretrained(str(folder))
    save_tokenizer(folder)
    return folder


def edit_json(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file in place."""
    loaded = json.loads(file.read_text())
    change(loaded)
    file.write_text(json.dumps(loaded))
