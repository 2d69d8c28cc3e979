"""A round's expectations by walking every sequence of rows and every test: no formula of the library is used."""

from dataclasses import dataclass


@dataclass
class Enumerated:
    drafted: float = 0.0
    tokens: float = 0.0
    tested: float = 0.0
    loss: float = 0.0
    bonus: float = 0.0


def enumerate_round(rows, threshold, lookahead, cap, test_last=False):
    """`rows`: (weight, accept, score) triples. The gate and the vouched rule are spelled out as the engine has them."""
    total = Enumerated()

    def draft(weight, history, survival):
        if len(history) == cap or (history and not all(v for *_, v in history) and not survival > lookahead):
            judge(weight, history)
            return
        for row_weight, accept, score in rows:
            vouched = score >= threshold and not (test_last and len(history) + 1 == cap)
            left = survival if vouched else survival * score
            draft(weight * row_weight, [*history, (accept, vouched)], left)

    def judge(weight, history):
        total.drafted += weight * len(history)
        total.tested += weight * sum(not v for _, v in history)
        alive, loss = weight, 0.0
        for place, (accept, vouched) in enumerate(history):
            if vouched:
                loss += 1.0 - accept
                continue
            # The replacement takes the rejected token's place.
            total.tokens += alive * (1.0 - accept) * (place + 1)
            total.loss += alive * (1.0 - accept) * loss
            alive *= accept
        own = any(not v for _, v in history)
        total.tokens += alive * (len(history) + own)
        total.loss += alive * loss
        total.bonus += alive * own

    draft(1.0, [], 1.0)
    return total
