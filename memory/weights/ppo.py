"""Training an adapter by reward with PPO: a policy that samples replies, a critic, and a reference to stay near to.

The policy is the base with an adapter, the reference the same without it (or with the adapter it started from), and the
critic a linear layer on what the reference makes of the text so far. So one set of weights is in memory for all three,
and neither the critic's learning nor a reset of the policy disturbs the other.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig
from trl.trainer.utils import use_adapter

from evolvent.memory.errors import DivergedError
from evolvent.memory.quiet import quiet_transformers
from evolvent.memory.weights import loop
from evolvent.memory.weights.metrics import Measured, write_metrics
from evolvent.memory.weights.ppo_step import Ppo, Rollout, Update, ppo_step
from evolvent.memory.weights.prompts import Prompt, Reward, fit_prompts, name_of, schedule, worth
from evolvent.memory.weights.regularize import Elastic, ElasticReset
from evolvent.memory.weights.training import (
    CHECKPOINTS,
    CURVE,
    Encoder,
    OnStep,
    Row,
    Step,
    Trained,
    Training,
    as_line,
    close_folder,
    journal,
    open_folder,
    total_steps,
)

_CHECKPOINT = "ppo.pt"
_WARM_UP = 0.05
_REFERENCE = "reference"

Asked = tuple[Prompt, list[int]]
"""A prompt as messages and as token ids."""


def train_ppo(
    base: str | Path,
    rows: Sequence[Row],
    out: Path,
    config: Training = Training(),
    *,
    reward: Reward,
    settings: Ppo = Ppo(),
    elastic: Elastic | None = None,
    start: Path | None = None,
    until: int | None = None,
    on_step: OnStep | None = None,
    resume: bool = True,
) -> Trained:
    """Proximal policy optimisation (arXiv 1707.06347), rewarded as InstructGPT is (2203.02155, §3.5).

    The reference is where the training starts: the base, or the adapter `start`. Resumes and repeats as `train_sft`. A
    step is one update, from one batch of fresh replies; its loss is that of policy and critic together, and
    `metrics.jsonl` has the fields of `Update`, and `reset` (1 after an elastic reset).

    Args:
        rows: `prompt` as a list of messages.
        config: a batch is so many replies, each to a prompt of its own. The learning rate is 5e-5 where it is None.
        reward: of prompts and replies. A journal knows it by its name alone.
        elastic: None never resets the policy. What is left in `out` is the online policy, not the average.
        until: stop after so many of the steps, with the policy as it is then in `out`; called again with a later one,
            the training goes on as if it had not been stopped. None is all of them.

    Raises:
        BadTrainingError: rows, `base`, `start`, `out` or what `reward` gives cannot be used.
        DivergedError: a loss is not a number.
    """
    encoder = Encoder(base)
    kept = fit_prompts(rows, encoder, config, settings.reply_tokens)
    method = {
        **{"name": "ppo", "reward": name_of(reward), **settings.model_dump()},
        "elastic": elastic.model_dump() if elastic else None,
    }
    begun = journal(method, base, start, rows, len(rows) - len(kept), config)
    ended = open_folder(out, begun, resume=resume)
    if ended is not None:
        return ended
    steps = total_steps(len(kept), config)
    order = schedule(len(kept), steps * config.batch_size, config.seed)
    asked: list[Asked] = [(kept[i][0]["prompt"], kept[i][1]) for i in order]
    batches = [asked[at : at + config.batch_size] for at in range(0, len(asked), config.batch_size)]
    with loop.own_randomness(), loop.errors_only():
        actor = Actor(base, start, encoder, config, settings)
        reset = ElasticReset(actor.policy.values(), elastic) if elastic else None
        curve, measured = _restore(out, actor, reset)
        tokens, seconds = (curve[-1].tokens, curve[-1].seconds) if curve else (0, 0.0)
        started = time.monotonic()
        last = min(until or steps, steps)
        for update in updates(actor, batches[actor.updates : last], reward, settings, config, steps):
            step, loss = actor.updates, update.policy_loss + update.value_loss
            if not math.isfinite(loss):
                raise DivergedError(f"The loss of step {step} is {loss}. Lower the learning rate.")
            was_reset = reset is not None and reset.after_update()
            tokens += sum(len(ids) for _, ids in batches[step - 1]) + round(update.tokens * config.batch_size)
            curve.append(Step(step, steps, loss, tokens, seconds + time.monotonic() - started))
            measured.append({"step": step, **asdict(update), **({"reset": int(was_reset)} if reset else {})})
            (out / CURVE).write_text("".join(as_line(each) + "\n" for each in curve), encoding="utf-8")
            write_metrics(out, measured)
            if on_step is not None:
                on_step(curve[-1])
            if (step % config.save_every == 0 or step == last) and step < steps:
                _keep(out, actor, reset, curve, measured)
    loop.save_adapter(actor.model, out)
    if last < steps:
        return Trained(out, tuple(curve), begun.rows, begun.left_out, loop.peak_memory())
    return close_folder(out, begun, curve, loop.peak_memory())


def updates(
    actor: Actor, batches: Iterable[Sequence[Asked]], reward: Reward, settings: Ppo, config: Training, steps: int
) -> Iterator[Update]:
    """Sample replies to a batch of prompts, learn from them, and again with the next batch.

    Between two of them the policy may be changed by the caller. Random numbers depend on the seed and on how many
    updates the actor has had, so that an interrupted run goes on with those it would have drawn.

    Args:
        steps: in all; the learning rate falls towards zero until then.
    """
    for batch in batches:
        drawn = random.Random(f"ppo/{config.seed}/{actor.updates}")
        torch.manual_seed(drawn.getrandbits(63))
        actor.updates += 1
        warm_up = int(_WARM_UP * steps)
        share = min(actor.updates / (warm_up + 1), (steps - actor.updates + 1) / (steps - warm_up))
        for group in actor.optimizer.param_groups:
            group["lr"] = share * (config.learning_rate or 5e-5)
        yield ppo_step(actor, actor.roll_out(batch, reward), settings, drawn)


class Actor:
    """A policy with its reference and its critic, and what both learn with.

    Runs in evaluation mode throughout: dropout would be noise in the ratio of new to old probability.

    Raises:
        BadTrainingError: as `loop.load`.
    """

    def __init__(self, base: str | Path, start: Path | None, encoder: Encoder, config: Training, settings: Ppo) -> None:
        torch.manual_seed(config.seed)
        model, lora = loop.load(base, start, config)
        with quiet_transformers():
            if lora is not None:
                model = get_peft_model(model, lora)
            else:
                model.load_adapter(str(start), _REFERENCE)
        ends = model.generation_config.eos_token_id
        self._ends = sorted({encoder.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None})
        sampling: Any = GenerationConfig  # untyped
        # In place of the model's own, which would fill in what is left out here, such as a top-k.
        model.get_base_model().generation_config = sampling(
            do_sample=True, max_new_tokens=settings.reply_tokens, eos_token_id=self._ends, pad_token_id=self._ends[0]
        )
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model: Any = model.to(self.device).eval()
        self.policy = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self.head = nn.Linear(model.config.get_text_config().hidden_size, 1).to(self.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        learning = [*self.policy.values(), *self.head.parameters()]
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(learning, weight_decay=0.0)
        self.forward_tokens = config.forward_tokens
        self.updates = 0
        """Had so far."""
        self._tokenizer = encoder.tokenizer

    @torch.no_grad()
    def roll_out(self, batch: Sequence[Asked], reward: Reward) -> Rollout:
        """One sampled reply to each prompt, and what it is worth.

        Raises:
            BadTrainingError: as `prompts.worth`.
        """
        longest = max(len(ids) for _, ids in batch)
        padded = [[self._ends[0]] * (longest - len(ids)) + ids for _, ids in batch]
        prompts_BP = torch.tensor(padded, device=self.device)
        left_out_B1 = torch.tensor([[longest - len(ids)] for _, ids in batch], device=self.device)
        attended_BP = (torch.arange(longest, device=self.device) >= left_out_B1).long()
        ids_BT = self.model.generate(input_ids=prompts_BP, attention_mask=attended_BP)
        replies_BK = ids_BT[:, longest:]
        ended_BK = torch.isin(replies_BK, torch.tensor(self._ends, device=self.device)).long()
        said_BK = (ended_BK.cumsum(1) - ended_BK == 0).long()  # no end before it
        texts = [
            self._tokenizer.decode(reply[said.bool()], skip_special_tokens=True)
            for reply, said in zip(replies_BK, said_BK, strict=True)
        ]
        scores = worth(reward, [prompt for prompt, _ in batch], texts)
        attended_BT = torch.cat([attended_BP, said_BK], 1)
        at_once = max(1, self.forward_tokens // ids_BT.shape[1])
        parts = [
            self._seen(ids_BT[at : at + at_once], attended_BT[at : at + at_once], replies_BK.shape[1])
            for at in range(0, len(batch), at_once)
        ]
        logprobs_BK, reference_BK, hidden_BKD = (torch.cat(each) for each in zip(*parts, strict=True))
        return Rollout(
            ids_BT=ids_BT,
            attended_BT=attended_BT,
            said_BK=said_BK.float(),
            logprobs_BK=logprobs_BK * said_BK,
            reference_BK=reference_BK * said_BK,
            hidden_BKD=hidden_BKD * said_BK[..., None],
            values_BK=self.head(hidden_BKD).squeeze(-1) * said_BK,
            scores_B=torch.tensor(scores, device=self.device),
        )

    def logprobs(self, ids_BT: Tensor, attended_BT: Tensor, reply_tokens: int) -> Tensor:
        return _logprobs(self._forward(ids_BT, attended_BT, reply_tokens), ids_BT, reply_tokens)

    def _seen(self, ids_BT: Tensor, attended_BT: Tensor, reply_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of the policy, those of the reference, and what the critic sees."""
        own_BK = self.logprobs(ids_BT, attended_BT, reply_tokens)
        with use_adapter(self.model, _REFERENCE if _REFERENCE in self.model.peft_config else None):
            output = self._forward(ids_BT, attended_BT, reply_tokens, output_hidden_states=True)
        hidden_BKD = output.hidden_states[-1][:, -reply_tokens - 1 : -1].float()
        # Of like size for any base, so that the critic can learn at the rate of the adapter.
        seen_BKD = functional.layer_norm(hidden_BKD, hidden_BKD.shape[-1:])
        return own_BK, _logprobs(output, ids_BT, reply_tokens), seen_BKD

    def _forward(self, ids_BT: Tensor, attended_BT: Tensor, reply_tokens: int, **asked: bool) -> Any:
        return self.model(
            input_ids=ids_BT,
            attention_mask=attended_BT,
            position_ids=(attended_BT.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=reply_tokens + 1,
            **asked,
        )


def _logprobs(output: Any, ids_BT: Tensor, reply_tokens: int) -> Tensor:
    logprobs_BKV: Tensor = output.logits[:, :-1].float().log_softmax(-1)
    return logprobs_BKV.gather(-1, ids_BT[:, -reply_tokens:, None]).squeeze(-1)


def _keep(
    out: Path, actor: Actor, reset: ElasticReset | None, curve: Sequence[Step], measured: Sequence[Measured]
) -> None:
    """All that the steps to come depend on, by one rename."""
    state = {
        "policy": {name: each.detach() for name, each in actor.policy.items()},
        "head": actor.head.state_dict(),
        "optimizer": actor.optimizer.state_dict(),
        "elastic": reset.state() if reset else None,
        "curve": [asdict(step) for step in curve],
        "measured": list(measured),
    }
    folder = out / CHECKPOINTS
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / f".{_CHECKPOINT}")
    (folder / f".{_CHECKPOINT}").replace(folder / _CHECKPOINT)


def _restore(out: Path, actor: Actor, reset: ElasticReset | None) -> tuple[list[Step], list[Measured]]:
    """What an interrupted training had told, with the actor as it was then; nothing where there is none."""
    try:
        state = torch.load(out / CHECKPOINTS / _CHECKPOINT, map_location=actor.device, weights_only=True)
    except FileNotFoundError:
        return [], []
    with torch.no_grad():
        for name, each in actor.policy.items():
            each.copy_(state["policy"][name])
    actor.head.load_state_dict(state["head"])
    actor.optimizer.load_state_dict(state["optimizer"])
    if reset is not None:
        reset.restore(state["elastic"])
    actor.updates = len(state["curve"])
    return [Step(**step) for step in state["curve"]], state["measured"]
