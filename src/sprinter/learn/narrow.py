"""A feed-forward part of fewer neurons, cut out of a gated one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sprinter.errors import CapabilityError, ConfigError

_INTO, _OUT_OF = ("gate_proj", "up_proj"), "down_proj"


def narrow_feed_forward(state: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """`state` with `size` neurons left in every gated feed-forward part, those that can say most.

    A neuron's weight is the product of the norms of its rows in gate and up and of its column in down. Raises
    CapabilityError where no layer has these three matrices, ConfigError for more neurons than there are.
    """
    parts = [name.removesuffix(f"{_OUT_OF}.weight") for name in state if name.endswith(f".{_OUT_OF}.weight")]
    parts = [part for part in parts if all(f"{part}{name}.weight" in state for name in _INTO)]
    if not parts:
        raise CapabilityError("this family has no gated feed-forward part (gate, up, down): leave its size alone")
    narrow = dict(state)
    for part in parts:
        down = state[f"{part}{_OUT_OF}.weight"]  # [hidden, neurons]
        if not 1 <= size <= down.shape[1]:
            raise ConfigError(f"a feed-forward size of {size} is impossible: the target has {down.shape[1]} neurons")
        weight = down.float().norm(dim=0)
        for name in _INTO:
            weight = weight * state[f"{part}{name}.weight"].float().norm(dim=1)
        kept = torch.topk(weight, size).indices.sort().values
        narrow[f"{part}{_OUT_OF}.weight"] = down[:, kept].clone()
        for name in (f"{part}{into}.{kind}" for into in _INTO for kind in ("weight", "bias")):
            if name in state:
                narrow[name] = state[name][kept].clone()
    return narrow
