"""A pair of toy models with a tokenizer, for comparisons without torch models or downloads."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from sprinter.bench.methods import Bench
from sprinter.build import Pair
from sprinter.config import ModelConfig
from sprinter.core.sampling import Sampling
from sprinter.models.tokenizer import Tokenizer
from sprinter.models.toy import ToyModel

VOCAB = 12
HOSTILE = "<script>alert(1)</script>"


def toy_bench(temperature: float = 1.0) -> Bench:
    """A bench whose target and draft are toys; word 3 of its vocabulary is markup."""
    pair = Pair(ModelConfig(verifier="none"))
    target = ToyModel.random(VOCAB, seed=5, spread=2.0)
    words = {f"w{n}": n for n in range(VOCAB)}
    del words["w3"]
    words[HOSTILE] = 3
    fast = FastTokenizer(WordLevel(words, unk_token="w0"))
    fast.pre_tokenizer = Whitespace()
    # What a cached property would compute at first use is put in its place.
    pair.__dict__["target"] = target
    pair.__dict__["draft"] = target.near(seed=6, noise=0.5)
    pair.__dict__["tokenizer"] = Tokenizer(fast, None, frozenset(), None, {})
    return Bench(pair, Sampling(temperature))


def write_texts(file: Path, count: int = 8) -> Path:
    """A prompt file of `count` unlike texts of known words."""
    texts = [" ".join(f"w{(n * 5 + i * (n + 2)) % 3 + i % 7}" for i in range(20)) for n in range(count)]
    file.write_text("".join(json.dumps({"title": f"t{n}", "text": t}) + "\n" for n, t in enumerate(texts)))
    return file
