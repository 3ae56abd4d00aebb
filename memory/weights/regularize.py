"""Staying near what the model could do before: elastic reset for training by reward, KL to the base for supervised."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class Elastic(BaseModel):
    """The two belong together: what a window has learnt keeps about 1 − decay^every of its way, as the average begins
    anew with each. The paper's figures are for its 7B model, and keep 73 %."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decay: float = Field(0.995, ge=0, lt=1)
    """Of the moving average, with each update: 0 makes a reset change nothing, and just below 1 forgets all."""
    every: int = Field(260, ge=1)
    """Updates between resets."""


class ElasticReset:
    """Elastic reset (arXiv 2312.07551): now and then the policy becomes its own moving average, and the average what
    the policy was at the very start. Critic and optimizer are left as they are.

    Args:
        policy: the trainable tensors, as they are at the start.
    """

    def __init__(self, policy: Iterable[Tensor], settings: Elastic) -> None:
        self.policy = list(policy)
        self.settings = settings
        self.initial = [each.detach().clone() for each in self.policy]
        self.average = [each.detach().clone() for each in self.policy]
        self.updates = 0

    @torch.no_grad()
    def after_update(self) -> bool:
        """To be called after each update of the policy; whether it was reset."""
        self.updates += 1
        for average, online in zip(self.average, self.policy, strict=True):
            average.mul_(self.settings.decay).add_(online, alpha=1 - self.settings.decay)
        if self.updates % self.settings.every:
            return False
        for average, online, initial in zip(self.average, self.policy, self.initial, strict=True):
            online.copy_(average)
            average.copy_(initial)
        return True

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold beside the policy."""
        return {"average": self.average, "updates": self.updates}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, with the policy of the very start as the one this was made with."""
        for average, kept in zip(self.average, state["average"], strict=True):
            average.copy_(kept)
        self.updates = state["updates"]


def kl_to_base(model: Any, logits_NV: Tensor, ids_BT: Tensor, mask_BT: Tensor | None, chosen_BK: Tensor) -> Tensor:
    """KL(base ‖ tuned) of the next token, summed over N positions, in nats; scalar with gradient for `logits_NV`.

    The forward direction: what the base thought likely has to stay so. The base is the model without its adapter, and
    costs one forward without gradient.

    Args:
        model: of PEFT.
        logits_NV: of the tuned model, at the positions that `chosen_BK` selects, row by row.
        mask_BT: 1 where there is a token; None where there is no padding.
        chosen_BK: which of the last K tokens count; the position is the one before, which foretells it.
    """
    with torch.no_grad(), model.disable_adapter():
        keep = chosen_BK.shape[1] + 1
        output = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False, logits_to_keep=keep)
        base_NV = output.logits[:, :-1][chosen_BK].float().log_softmax(-1)
    tuned_NV = logits_NV.float().log_softmax(-1)
    kl: Tensor = (base_NV.exp() * (base_NV - tuned_NV)).sum()
    return kl
