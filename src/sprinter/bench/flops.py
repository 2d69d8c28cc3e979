"""FLOPs of what really ran, by two counts; a comparison must say which one it uses."""

from __future__ import annotations

from dataclasses import dataclass

from sprinter.core.records import Counters
from sprinter.core.rows import ModelInfo
from sprinter.theory.costs import token_flops


@dataclass(frozen=True, slots=True)
class PairFlops:
    """FLOPs of one run: every token each model computed, and the paper's count of the same run."""

    target: float
    draft: float
    paper: float  # 2502.04557's: the draft in full, the target for tested tokens only, no prompt

    @property
    def total(self) -> float:
        return self.target + self.draft


def run_flops(
    target: ModelInfo, draft: ModelInfo | None, counters: Counters, tested: int | None, length: int, num_prompt: int
) -> PairFlops:
    """FLOPs of a run that ended at `length` tokens, `num_prompt` of them the prompt.

        total = sum over models of computed tokens * (2 P + 4 layers hidden context)

    with half the final length as the context of every token: positions are computed about once each. `tested`: tokens
    the paper charges the target for, one per call of the target alone, each drafted one of exact decoding, and only
    the unvouched ones of SPRINTER; None (nobody knows) charges every token after the prompt. The verifier's work, a
    few thousandths of a draft step, is left out of both.
    """
    per_target = token_flops(target.num_parameters, target.num_layers, target.hidden_size, length / 2)
    per_draft = 0.0
    if draft is not None:
        per_draft = token_flops(draft.num_parameters, draft.num_layers, draft.hidden_size, length / 2)
    charged = tested if tested is not None else max(0, counters.target_tokens - num_prompt)
    return PairFlops(
        target=counters.target_tokens * per_target,
        draft=counters.draft_tokens * per_draft,
        paper=charged * per_target + counters.draft_steps * per_draft,
    )
