"""Proximal policy optimisation (arXiv 1707.06347) with the reward of InstructGPT: what is learnt from some replies.

Tensors in, one update out; how replies are sampled, and the training around it, is in `ppo.py`. TRL has no PPO any
more, so both are ours. Axes: B replies (b of them in one forward), K tokens of a reply, T of prompt and reply, D of
what the critic sees.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

_MAX_NORM = 1.0
"""Of a gradient."""


class Ppo(BaseModel):
    """How to learn from a batch of replies; the defaults are for a small model with an adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    beta: float = Field(0.05, ge=0)
    """What a nat of a token's log-ratio to the reference costs, in reward."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount for each token."""
    lam: float = Field(0.95, ge=0, le=1)
    """Of GAE: 0 trusts the values, 1 the rewards that came."""
    clip: float = Field(0.2, gt=0)
    """How far the ratio of new to old probability may lead from 1, and a value from the old one."""
    epochs: int = Field(2, ge=1)
    """Passes over a batch."""
    minibatch: int = Field(4, ge=1)
    """Replies of one step of the optimizer."""
    reply_tokens: int = Field(32, ge=1)
    """At most, the end of the turn included."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """Replies as they were sampled. Beyond the end of a reply all its numbers are 0."""

    ids_BT: Tensor
    """Prompts filled up on their left, then K positions of a reply."""
    attended_BT: Tensor
    """1 where there is a token."""
    said_BK: Tensor
    """1 for the tokens of a reply, its end among them."""
    logprobs_BK: Tensor
    reference_BK: Tensor
    """Log-probabilities of the reference."""
    hidden_BKD: Tensor
    """What the critic sees before each token."""
    values_BK: Tensor
    scores_B: Tensor
    """What the replies are worth."""

    def take(self, rows: Sequence[int]) -> Rollout:
        return Rollout(*(getattr(self, field.name)[list(rows)] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Update:
    """What was learnt from one rollout."""

    reward: float
    """Mean, without the penalty."""
    kl: float
    """Mean log-ratio to the reference when it was sampled, in nats per token."""
    policy_loss: float
    value_loss: float
    clipped: float
    """Share of the tokens whose ratio was outside of the clip."""
    tokens: float
    """Mean length of a reply."""


class Learner(Protocol):
    """What is updated: a policy, a critic, and the optimizer of both."""

    policy: dict[str, nn.Parameter]
    """Its trainable tensors, by name."""
    head: nn.Linear
    """The critic: (…, D) to (…, 1)."""
    optimizer: torch.optim.Optimizer
    forward_tokens: int
    """Of one forward, padding included."""

    def logprobs(self, ids_BT: Tensor, attended_BT: Tensor, reply_tokens: int) -> Tensor:
        """Of the last tokens under the policy, with gradient; (B, K)."""


def gae(rewards_BK: Tensor, values_BK: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates (arXiv 1506.02438, eq. 16); (B, K).

    The value after the last token is 0. Where rewards and values beyond the end of a reply are 0, so are the estimates
    there, and the others are those of the reply alone.
    """
    advantages_BK = torch.zeros_like(rewards_BK)
    next_B = value_B = torch.zeros_like(rewards_BK[:, 0])
    for k in reversed(range(rewards_BK.shape[1])):
        surprise_B = rewards_BK[:, k] + gamma * value_B - values_BK[:, k]
        next_B = advantages_BK[:, k] = surprise_B + gamma * lam * next_B
        value_B = values_BK[:, k]
    return advantages_BK


def shaped_rewards(rollout: Rollout, beta: float) -> Tensor:
    """A reply's score at its last token, minus `beta` times the log-ratio to the reference at each (arXiv 2203.02155,
    §3.5, without its pretraining term); (B, K)."""
    rewards_BK = -beta * (rollout.logprobs_BK - rollout.reference_BK) * rollout.said_BK
    last_B1 = rollout.said_BK.sum(1, keepdim=True).long() - 1
    return rewards_BK.scatter_add(1, last_B1, rollout.scores_B[:, None].to(rewards_BK))


def standardised(values_BK: Tensor, mask_BK: Tensor) -> Tensor:
    """With mean 0 and variance 1 over the mask, and 0 outside of it; all 0 where they are all the same."""
    count = mask_BK.sum()
    centred_BK = (values_BK - (values_BK * mask_BK).sum() / count) * mask_BK
    return centred_BK / ((centred_BK**2).sum() / count).sqrt().clamp(min=1e-6)


def policy_losses(logprobs_BK: Tensor, old_BK: Tensor, advantages_BK: Tensor, clip: float) -> Tensor:
    """The clipped surrogate of each token with its sign turned (arXiv 1707.06347, eq. 7); (B, K)."""
    ratio_BK = (logprobs_BK - old_BK).exp()
    clipped_BK = ratio_BK.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio_BK * advantages_BK, clipped_BK * advantages_BK)


def value_losses(values_BK: Tensor, old_BK: Tensor, returns_BK: Tensor, clip: float) -> Tensor:
    """Half of the squared error of each value, or of the value kept within `clip` of the old one where that is larger;
    (B, K)."""
    clipped_BK = old_BK + (values_BK - old_BK).clamp(-clip, clip)
    return torch.maximum((values_BK - returns_BK) ** 2, (clipped_BK - returns_BK) ** 2) / 2


def ppo_step(learner: Learner, rollout: Rollout, settings: Ppo, shuffle: random.Random) -> Update:
    """One update: learn from a rollout, `settings.epochs` times, in minibatches.

    Policy and critic share no weight, so each has its own gradient and its own limit on that. A minibatch is computed
    in as many forwards as `learner.forward_tokens` asks for, which changes no gradient.
    """
    rows_at_once = max(1, learner.forward_tokens // rollout.ids_BT.shape[1])
    mask_BK = rollout.said_BK
    advantages_BK = gae(shaped_rewards(rollout, settings.beta), rollout.values_BK, settings.gamma, settings.lam)
    returns_BK = advantages_BK + rollout.values_BK
    advantages_BK = standardised(advantages_BK, mask_BK)
    sums = torch.zeros(3, dtype=torch.float64)
    for _ in range(settings.epochs):
        rows = shuffle.sample(range(len(mask_BK)), len(mask_BK))
        for minibatch in _cut(rows, settings.minibatch):
            learner.optimizer.zero_grad()
            tokens = mask_BK[minibatch].sum()
            for part in _cut(minibatch, rows_at_once):
                seen, mask_bK = rollout.take(part), mask_BK[part]
                logprobs_bK = learner.logprobs(seen.ids_BT, seen.attended_BT, mask_bK.shape[1])
                values_bK = learner.head(seen.hidden_BKD).squeeze(-1)
                policy_bK = policy_losses(logprobs_bK, seen.logprobs_BK, advantages_BK[part], settings.clip)
                value_bK = value_losses(values_bK, seen.values_BK, returns_BK[part], settings.clip)
                policy, value = (policy_bK * mask_bK).sum(), (value_bK * mask_bK).sum()
                loss: Any = (policy + value) / tokens  # its backward is untyped
                loss.backward()
                outside_bK = ((logprobs_bK - seen.logprobs_BK).exp() - 1).abs() > settings.clip
                sums += torch.stack([policy, value, (outside_bK * mask_bK).sum()]).detach().cpu()
            nn.utils.clip_grad_norm_(learner.policy.values(), _MAX_NORM)
            nn.utils.clip_grad_norm_(learner.head.parameters(), _MAX_NORM)
            learner.optimizer.step()
    policy_loss, value_loss, clipped = (sums / (settings.epochs * float(mask_BK.sum()))).tolist()
    log_ratio_BK = (rollout.logprobs_BK - rollout.reference_BK) * mask_BK
    return Update(
        reward=float(rollout.scores_B.mean()),
        kl=float(log_ratio_BK.sum() / mask_BK.sum()),
        policy_loss=policy_loss,
        value_loss=value_loss,
        clipped=clipped,
        tokens=float(mask_BK.sum(1).mean()),
    )


def _cut(rows: Sequence[int], size: int) -> Iterator[list[int]]:
    for at in range(0, len(rows), size):
        yield list(rows[at : at + size])
