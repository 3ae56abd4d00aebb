"""Adapters that classify: one for each task of a stream, with a selector that says whose answer counts.

Dynamic ConPET (arXiv 2309.14763). Everything rests on one frozen base: an expert is an adapter and a layer that gives
its own classes a logit each, the selector an adapter and a layer over the tasks so far. What reads a prompt is the
state at its last token. Classes of tasks that were not selected have the logit `UNSELECTED`, and probabilities are over
all classes of all tasks.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from evolvent.memory.errors import BadTrainingError
from evolvent.memory.quiet import quiet_transformers
from evolvent.memory.weights.dataset import Messages
from evolvent.memory.weights.loop import load, own_randomness, peak_memory, save_adapter
from evolvent.memory.weights.mixing import budgeted
from evolvent.memory.weights.training import Encoder, OnStep, Step, Trained, Training

HEAD = "head.safetensors"
"""Lies beside the adapter: `weight` [outputs, D] and `bias` [outputs]."""
UNSELECTED = -100.0
_SELECTOR = "selector"
_WEIGHT_DECAY = 0.01


_Loss = Callable[[Tensor, Sequence["Case"]], tuple[Tensor, int]]
"""(logits [B, C], cases) → (mean loss in nats, cases that are classified rightly)."""


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt with its class."""

    messages: Messages
    task: int
    """Of the stream, from 0."""
    label: int
    """Among the classes of its task, from 0."""


class Budget(Training):
    """`steps` and `epochs` of a training are those of the budget."""

    batches: int = Field(12, ge=2)
    """Of one epoch, whatever the number of tasks: `train_share` of them to train on, the rest to validate with."""
    train_share: float = Field(0.8, gt=0, lt=1)

    @property
    def trained(self) -> int:
        """Batches of one epoch that are trained on."""
        return min(self.batches - 1, max(1, round(self.batches * self.train_share)))


@dataclass(frozen=True, slots=True)
class Decision:
    selected: tuple[int, ...]
    """Tasks, likeliest first."""
    executed: tuple[str, ...]
    """Adapters that ran for this prompt, in order: `selector`, `task-0`, …"""
    logits: tuple[float, ...]
    """Of all classes, task by task."""
    logprobs: tuple[float, ...]
    """The same, normalised: their exponentials sum to 1."""


def widened(head: nn.Linear, outputs: int) -> nn.Linear:
    """The layer with more outputs; those it had are as they were."""
    wide = nn.Linear(head.in_features, outputs)
    with torch.no_grad():
        wide.weight[: head.out_features] = head.weight
        wide.bias[: head.out_features] = head.bias
    return wide


def concatenated(parts: Mapping[int, Tensor], sizes: Sequence[int]) -> Tensor:
    """Logits over all classes [C] of the selected tasks' own [C of the task]; `UNSELECTED` everywhere else."""
    first = next(iter(parts.values()))
    return torch.cat([parts.get(task, first.new_full((size,), UNSELECTED)) for task, size in enumerate(sizes)])


class Experts:
    """The selector and the experts of a stream, ready to classify.

    Args:
        base: folder or hub id of the frozen weights.
        experts: folders, one for each task, in order.
        sizes: how many classes each has.
        selector: None where there is nothing to select: all experts run.
        top: how many of the selected tasks run.
    """

    def __init__(
        self, base: str | Path, experts: Sequence[Path], sizes: Sequence[int], *, selector: Path | None, top: int = 1
    ) -> None:
        folders = {f"task-{task}": folder for task, folder in enumerate(experts)}
        if selector is not None:
            folders[_SELECTOR] = selector
        self._sizes, self._top, self._selects = tuple(sizes), top, selector is not None
        model, _ = load(base, None, Training())
        name, *others = folders
        with quiet_transformers():
            tuned: Any = PeftModel.from_pretrained(model, str(folders[name]), adapter_name=name)
            for each in others:
                tuned.load_adapter(str(folders[each]), adapter_name=each)
        self._read = _Reader(base, tuned.eval().to(_device()))
        self._heads = {name: _read_head(folder).to(_device()) for name, folder in folders.items()}
        self._known: dict[str, Decision] = {}

    @torch.no_grad()
    def decide(self, messages: Messages) -> Decision:
        """Selector, then the experts of the tasks it puts first, then one distribution over all classes."""
        name = key(messages)
        if name not in self._known:
            selected, executed = tuple(range(len(self._sizes))), list[str]()
            if self._selects:
                executed.append(_SELECTOR)
                selected = self.rank(messages)[: self._top]
            executed += [f"task-{task}" for task in selected]
            parts = {task: self._run(f"task-{task}", messages) for task in selected}
            logits = concatenated(parts, self._sizes)
            self._known[name] = Decision(
                selected, tuple(executed), tuple(logits.tolist()), tuple(logits.log_softmax(-1).tolist())
            )
        return self._known[name]

    @torch.no_grad()
    def rank(self, messages: Messages) -> tuple[int, ...]:
        """Tasks, likeliest first, as the selector sees them."""
        return tuple(self._run(_SELECTOR, messages).argsort(descending=True).tolist())

    @torch.no_grad()
    def own_logits(self, task: int, messages: Messages) -> list[float]:
        """Of one expert, over its own classes."""
        found: list[float] = self._run(f"task-{task}", messages).tolist()
        return found

    def _run(self, name: str, messages: Messages) -> Tensor:
        self._read.model.set_adapter(name)
        logits_BC: Tensor = self._heads[name](self._read([messages]))
        return logits_BC[0]


def train_selector(
    base: str | Path,
    new: Sequence[Case],
    old: Sequence[Sequence[Case]],
    out: Path,
    budget: Budget,
    *,
    start: Path | None = None,
    on_step: OnStep | None = None,
) -> Trained:
    """A classifier of tasks, as many as there are; from `start` on, it had one fewer.

    Raises:
        BadTrainingError: no cases, or `start` does not fit the base.
    """

    def loss(logits_BC: Tensor, cases: Sequence[Case]) -> tuple[Tensor, int]:
        target_B = _ids([case.task for case in cases])
        return functional.cross_entropy(logits_BC, target_B), int((logits_BC.argmax(-1) == target_B).sum())

    return _train(base, new, old, out, budget, outputs=len(old) + 1, start=start, loss=loss, on_step=on_step)


def train_expert(
    base: str | Path,
    new: Sequence[Case],
    old: Sequence[Sequence[Case]],
    out: Path,
    budget: Budget,
    *,
    sizes: Sequence[int],
    selected: Mapping[str, Sequence[int]] = {},
    frozen: Mapping[tuple[int, str], Sequence[float]] = {},
    start: Path | None = None,
    on_step: OnStep | None = None,
) -> Trained:
    """The expert of the newest task: the last of `sizes`. No other adapter is touched.

    Args:
        sizes: classes of each task so far.
        selected: tasks that run for a case besides its own, by `key`; the true task is always among those that run
            and takes the last one's place (teacher forcing). Empty is top-1: the true task alone.
        frozen: logits of earlier experts by (task, key), for every task that is selected.
        start: a classifier that is trained on and widened to all classes; `sizes` is then that of a single task.
    """
    offsets = [sum(sizes[:task]) for task in range(len(sizes))]
    newest = len(sizes) - 1

    def loss(logits_BC: Tensor, cases: Sequence[Case]) -> tuple[Tensor, int]:
        rows = []
        for own, case in zip(logits_BC, cases, strict=True):
            tasks = forced(selected.get(key(case.messages), (case.task,)), case.task)
            parts = {
                task: own if task == newest else own.new_tensor(frozen[task, key(case.messages)]) for task in tasks
            }
            rows.append(concatenated(parts, sizes))
        all_BC = torch.stack(rows)
        target_B = _ids([offsets[case.task] + case.label for case in cases])
        return functional.cross_entropy(all_BC, target_B), int((all_BC.argmax(-1) == target_B).sum())

    return _train(base, new, old, out, budget, outputs=sizes[-1], start=start, loss=loss, on_step=on_step)


def forced(selected: Sequence[int], true: int) -> tuple[int, ...]:
    """The selected tasks with the true one among them, in the last one's place where it was missing."""
    return tuple(selected) if true in selected else (*selected[:-1], true)


def key(messages: Messages) -> str:
    """Equal for equal prompts."""
    return repr(messages)


# -- inside ------------------------------------------------------------------------------------------------------------


def _train(
    base: str | Path,
    new: Sequence[Case],
    old: Sequence[Sequence[Case]],
    out: Path,
    budget: Budget,
    *,
    outputs: int,
    start: Path | None,
    loss: _Loss,
    on_step: OnStep | None,
) -> Trained:
    """An adapter and a layer on the frozen base; those of the epoch that validates best, the earliest of several.

    A training that was killed begins anew, and gives the same.
    """
    if not new or not all(old):
        raise BadTrainingError("No cases of a task to train on. Make them of an expert's episodes.")
    with own_randomness(), quiet_transformers():
        torch.manual_seed(budget.seed)
        model, lora = load(base, start, budget)
        tuned: Any = model if lora is None else get_peft_model(model, lora)
        head = nn.Linear(tuned.config.hidden_size, outputs) if start is None else widened(_read_head(start), outputs)
        read = _Reader(base, tuned.train().to(_device()))
        head.to(_device())
        parameters = [each for each in (*tuned.parameters(), *head.parameters()) if each.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=budget.learning_rate or 2e-4, weight_decay=_WEIGHT_DECAY)
        curve: list[Step] = []
        best, kept = -1, list[Tensor]()
        steps, tokens, began = int(budget.epochs) * budget.trained, 0, time.monotonic()
        for epoch in range(int(budget.epochs)):
            seed = 1000 * budget.seed + epoch
            batches = budgeted(new, old, batches=budget.batches, size=budget.batch_size, seed=seed)
            for batch in batches[: budget.trained]:
                prompts = [case.messages for case in batch]
                value, _ = loss(head(read(prompts)), batch)
                optimizer.zero_grad()
                torch.autograd.backward(value)
                optimizer.step()
                tokens += sum(len(read.tokens(each)) for each in prompts)
                curve.append(Step(len(curve) + 1, steps, float(value.detach()), tokens, time.monotonic() - began))
                if on_step is not None:
                    on_step(curve[-1])
            right = _validate(read, head, batches[budget.trained :], loss)
            if right > best:
                best, kept = right, [copy.deepcopy(each.detach()) for each in parameters]
        with torch.no_grad():
            for each, value in zip(parameters, kept, strict=True):
                each.copy_(value)
    out.mkdir(parents=True, exist_ok=True)
    save_adapter(tuned, out)
    save_file({name: each.detach().cpu().contiguous() for name, each in head.state_dict().items()}, out / HEAD)
    return Trained(out, tuple(curve), len(new) + sum(map(len, old)), 0, peak_memory())


@torch.no_grad()
def _validate(read: _Reader, head: nn.Linear, batches: Sequence[Sequence[Case]], loss: _Loss) -> int:
    """Cases that are classified rightly."""
    read.model.eval()
    right = 0
    for batch in batches:
        _, found = loss(head(read([case.messages for case in batch])), batch)
        right += found
    read.model.train()
    return right


class _Reader:
    """Prompts to the states at their last tokens, through whichever adapter is active."""

    def __init__(self, base: str | Path, model: Any) -> None:
        self._encoder, self.model = Encoder(base), model
        self._tokens: dict[str, list[int]] = {}

    def __call__(self, prompts: Sequence[Messages]) -> Tensor:
        """[B, D], in 32 bits."""
        rows = [self.tokens(each) for each in prompts]
        longest, padding = max(map(len, rows)), self._encoder.tokenizer.eos_token_id
        ids_BT = torch.tensor([row + [padding] * (longest - len(row)) for row in rows], device=_device())
        mask_BT = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=_device())
        states: Any = self.model.get_base_model().base_model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False)
        last_B = _ids([len(row) - 1 for row in rows])
        picked_BD: Tensor = states.last_hidden_state[torch.arange(len(rows), device=_device()), last_B].float()
        return picked_BD

    def tokens(self, prompt: Messages) -> list[int]:
        name = key(prompt)
        if name not in self._tokens:
            self._tokens[name] = self._encoder.encode(prompt, [{"role": "assistant", "content": ""}]).prompt
        return self._tokens[name]


def _ids(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, device=_device())


def _read_head(folder: Path) -> nn.Linear:
    state = load_file(folder / HEAD)
    outputs, width = state["weight"].shape
    head = nn.Linear(width, outputs)
    head.load_state_dict(state)
    return head


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
