"""PPO on tensors, against numbers worked out by hand; each is worked out in its test."""

from __future__ import annotations

import math
import random

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from evolvent.memory.weights.ppo_step import (
    Ppo,
    Rollout,
    gae,
    policy_losses,
    ppo_step,
    shaped_rewards,
    standardised,
    value_losses,
)


def test_advantages_are_the_discounted_sum_of_the_surprises_of_a_reply() -> None:
    rewards = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]])
    values = torch.tensor([[0.5, 1.0, 0.5], [1.0, 0.0, 0.0]])  # the second reply has one token
    # The surprises of the first: 1 + 0.9·1 − 0.5 = 1.4,  0 + 0.9·0.5 − 1 = −0.55,  2 + 0 − 0.5 = 1.5.
    # From the last one back, with 0.9·0.8 = 0.72: 1.5,  −0.55 + 0.72·1.5 = 0.53,  1.4 + 0.72·0.53 = 1.7816.
    expected = torch.tensor([[1.7816, 0.53, 1.5], [2.0, 0.0, 0.0]])
    torch.testing.assert_close(gae(rewards, values, gamma=0.9, lam=0.8), expected)


def test_lambda_one_trusts_what_came_and_lambda_zero_the_next_value() -> None:
    rewards, values = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.5, 1.0, 0.5]])
    torch.testing.assert_close(gae(rewards, values, gamma=1, lam=1), torch.tensor([[2.5, 1.0, 1.5]]))
    torch.testing.assert_close(gae(rewards, values, gamma=1, lam=0), torch.tensor([[1.5, -0.5, 1.5]]))


def test_the_surrogate_is_clipped_only_where_that_makes_it_worse() -> None:
    ratios = torch.tensor([[1.5, 1.5, 0.5, 0.5, 1.1]])
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0, 2.0]])
    new = ratios.log().requires_grad_()
    losses = policy_losses(new, torch.zeros(1, 5), advantages, clip=0.2)
    # min(1.5, 1.2), min(−1.5, −1.2), min(0.5, 0.8), min(−0.5, −0.8) and 1.1·2, with the sign turned.
    torch.testing.assert_close(losses, torch.tensor([[-1.2, 1.5, -0.5, 0.8, -2.2]]))
    (gradient,) = torch.autograd.grad(losses.sum(), new)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 1.5, -0.5, 0.0, -2.2]]))  # none from a clipped one


def test_a_value_earns_nothing_by_going_further_than_the_clip() -> None:
    values = torch.tensor([[2.0, 1.1]], requires_grad=True)
    losses = value_losses(values, torch.ones(1, 2), torch.tensor([[3.0, 0.0]]), clip=0.2)
    # (2 − 3)² = 1 is below (1.2 − 3)² = 3.24; and 1.1 is within the clip, so (1.1 − 0)² = 1.21; the halves.
    torch.testing.assert_close(losses, torch.tensor([[1.62, 0.605]]))
    (gradient,) = torch.autograd.grad(losses.sum(), values)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 1.1]]))


def rollout(**changes: Tensor) -> Rollout:
    """Two replies of at most three tokens, the second one shorter."""
    said = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    parts = {
        "ids_BT": torch.zeros(2, 3, dtype=torch.long),
        "attended_BT": torch.ones(2, 3, dtype=torch.long),
        "said_BK": said,
        "logprobs_BK": torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -2.0, 0.0]]),
        "reference_BK": torch.tensor([[-2.0, -2.0, -1.0], [-2.0, -1.0, 0.0]]),
        "hidden_BKD": torch.zeros(2, 3, 1),
        "values_BK": torch.zeros(2, 3),
        "scores_B": torch.tensor([5.0, 7.0]),
    }
    return Rollout(**{**parts, **changes})


def test_the_score_comes_at_the_last_token_and_the_penalty_at_each() -> None:
    """arXiv 2203.02155, §3.5: the rewards of a reply sum to its score minus beta times its log-ratio."""
    rewards = shaped_rewards(rollout(), beta=0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.1, 0.0, 0.2 + 5.0], [-0.1, 0.1 + 7.0, 0.0]]))
    torch.testing.assert_close(rewards.sum(1), torch.tensor([5 - 0.1 * (-6 + 5), 7 - 0.1 * (-3 + 3)]))


def test_advantages_are_standardised_over_the_tokens_that_were_said() -> None:
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    # 1, 2 and 6 have mean 3 and variance (4 + 1 + 9) / 3.
    expected = torch.tensor([[-2.0, -1.0], [3.0, 0.0]]) / math.sqrt(14 / 3)
    torch.testing.assert_close(standardised(torch.tensor([[1.0, 2.0], [6.0, 99.0]]), mask), expected)
    assert not standardised(torch.full((2, 2), 4.0), mask).any()


class Coin:
    """A policy over two tokens that looks at nothing, with a critic that sees a one."""

    def __init__(self, forward_tokens: int = 100) -> None:
        self.logits = nn.Parameter(torch.zeros(2))
        self.policy = {"logits": self.logits}
        self.head = nn.Linear(1, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD([self.logits, *self.head.parameters()], lr=1.0)
        self.forward_tokens = forward_tokens
        self.forwards = 0

    def logprobs(self, ids_BT: Tensor, attended_BT: Tensor, reply_tokens: int) -> Tensor:
        self.forwards += 1
        return self.logits.log_softmax(0)[ids_BT[:, -reply_tokens:]]


def tosses(tokens: list[int], scores: list[float]) -> Rollout:
    ids, even = torch.tensor(tokens)[:, None], torch.full((len(tokens), 1), math.log(0.5))
    return Rollout(
        *(ids, torch.ones_like(ids), torch.ones(len(tokens), 1), even, even),
        *(torch.ones(len(tokens), 1, 1), torch.zeros(len(tokens), 1), torch.tensor(scores)),
    )


def test_one_update_of_policy_and_critic_is_the_one_worked_out_by_hand() -> None:
    coin = Coin()
    settings = Ppo(epochs=1, minibatch=2)
    told = ppo_step(coin, tosses([0, 1], [1.0, 0.0]), settings, random.Random(0))
    # With values 0 the advantages are 1 and 0, standardised 1 and −1, and all ratios are 1. The gradient of a
    # log-probability is (1, 0) − (½, ½) for token 0 and (0, 1) − (½, ½) for token 1. So that of the mean loss is
    # −½ · [1 · (½, −½) − 1 · (−½, ½)] = (−½, ½), and its norm of 0.71 is below the limit of 1.
    torch.testing.assert_close(coin.logits.detach(), torch.tensor([0.5, -0.5]))
    # The returns are 1 and 0: the gradient of the mean of ½(v − R)² is −½ for weight and bias alike.
    assert coin.head.weight.item() == coin.head.bias.item() == 0.5
    assert (told.reward, told.kl, told.policy_loss, told.clipped, told.tokens) == (0.5, 0, 0, 0, 1)
    assert told.value_loss == 0.25  # the mean of ½·1² and ½·0²


def test_a_second_pass_over_the_same_replies_is_held_back_by_the_clip() -> None:
    coin = Coin()
    told = ppo_step(coin, tosses([0, 1], [1.0, 0.0]), Ppo(epochs=2, minibatch=2), random.Random(0))
    # After the first pass the probabilities are e^½ / (e^½ + e^−½) = 0.731 and 0.269, the ratios 1.46 and 0.54: both
    # are outside of 1 ± 0.2, both in the direction that pays, so nothing more is learnt by the policy.
    torch.testing.assert_close(coin.logits.detach(), torch.tensor([0.5, -0.5]))
    assert told.clipped == 0.5  # none in the first pass, all in the second


def test_a_minibatch_is_computed_in_more_forwards_without_another_result() -> None:
    tokens, scores = [0, 1, 1, 0, 1, 1], [1.0, 0.3, -0.4, 0.2, 0.0, 0.9]
    learnt = []
    for forward_tokens, forwards in ((100, 4), (2, 6), (1, 12)):
        coin = Coin(forward_tokens)
        ppo_step(coin, tosses(tokens, scores), Ppo(minibatch=4), random.Random(3))
        assert coin.forwards == forwards
        learnt.append(torch.cat([coin.logits, coin.head.weight[0]]).detach())
    torch.testing.assert_close(learnt[0], learnt[1])
    torch.testing.assert_close(learnt[0], learnt[2])


@pytest.mark.parametrize("wrong", [{"beta": -0.1}, {"gamma": 0}, {"lam": 1.1}, {"clip": 0}, {"minibatch": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="1 validation error for Ppo"):
        Ppo.model_validate(wrong)
