"""`evolvent distill`: a run that has ended is distilled, and what that gained and cost is told.

Held-out tasks are played with memory and no adapter (the run as it was), with the adapter and no memory, and by the
base alone. What the training made the model forget is measured before and after on things the run was not about.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from evolvent.agents.context import Context
from evolvent.agents.distillation import Distillation, Distilled, distil
from evolvent.agents.episode import Job
from evolvent.agents.errors import SetupError
from evolvent.agents.evaluation.forgetting import Ability, forgetting, perplexity, prose, success
from evolvent.agents.evaluation.held_out import Evaluation, evaluate_held_out
from evolvent.agents.models.protocol import Scorer
from evolvent.agents.models.role import RoleModel
from evolvent.agents.recipes.catalog import load_recipe
from evolvent.agents.rollout import Episode
from evolvent.agents.run import Prepared, opened, read_config
from evolvent.agents.solutions.seats import bare, learning_seat
from evolvent.agents.weights import served, weights_of
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.memory.weights.adapters import Adapters

ELSEWHERE = (
    (EnvironmentSpec("reasoning_gym", {"task": "chain_sum", "max_digits": 2}), 500),
    (EnvironmentSpec("labelled", {"task": "plain"}), 300),
)
"""Where forgetting is measured, and on how many tasks."""
PROSE = 100
"""Paragraphs of general text."""
AT_ONCE = 32
"""Episodes at once, if the run had fewer: as many calls as the embedded model answers together. A token of a row among
32 takes it two thirds of the time of one among 16."""


async def distil_run(
    directory: Path,
    config: Distillation,
    ready: Prepared,
    *,
    evaluated: int = 100,
    elsewhere: Sequence[tuple[EnvironmentSpec, int]] = ELSEWHERE,
    texts: int = PROSE,
    say: Callable[[str], None] = lambda text: None,
    on_episode: Callable[[Job, Episode], None] = lambda job, episode: None,
) -> dict[str, Any]:
    """What `evolvent distill --json` prints. The same settings on the same run go on where they stopped.

    Args:
        evaluated: held-out tasks.
        elsewhere, texts: what forgetting is measured on; empty and 0 leave it out.

    Raises:
        SetupError: the run's recipe does not recall from memory, it has not ended, or its model cannot be trained.
    """
    asked = read_config(directory)
    played = asked.model_copy(update={"evaluated": evaluated, "concurrency": max(asked.concurrency, AT_ONCE)})
    recipe = load_recipe(played.recipe)
    if not hasattr(recipe, "seats"):
        raise SetupError(f"{played.recipe} keeps nothing that outlives a task, so there is nothing to distil.")
    async with opened(played, directory, ready, say=say, on_episode=on_episode) as context:
        generation = max(context.memory.ledger.generations(), default=0)
        if generation < played.generations:
            raise SetupError(f"{directory} has not ended. Go on with `evolvent resume {directory}` first.")
        weights_of(context)  # what cannot be trained is told before anything is played
        remembering = partial(recipe.seats, context, played.recipe_config())
        base = context.model("actor")
        measure = partial(_abilities, context, elsewhere=elsewhere, texts=texts, generation=generation)
        able = await measure(base, "base")
        say("held-out tasks: the base, and with memory")
        judge = partial(evaluate_held_out, context, player=learning_seat(context), world=generation)
        frozen = await judge(bare(context, base), generation=0)
        # Played before the distillation, because afterwards memory is another one.
        with_memory = await judge(remembering(base), generation=generation)
        found = await distil(context, config, remembering, generation=generation)
        adapter = Adapters(directory).get(found.adapter)
        model = await served(context, adapter)
        say("held-out tasks: with the adapter alone")
        alone = await judge(bare(context, model), generation=generation, arm=f"alone-{found.adapter}")
        change = forgetting(able, await measure(model, found.adapter), seed=context.seed)
        prompts = partial(_memory_tokens, context, base)
        return {
            "with_rules": with_memory.success.mean,
            "without_rules": alone.success.mean,
            "base": frozen.success.mean,
            "tokens_before": with_memory.prompt_tokens,
            "tokens_after": alone.prompt_tokens,
            "forgetting": {
                name: {"mean": each.mean, "low": each.low, "high": each.high, "n": each.n}
                for name, each in change.items()
            },
            "kept": alone.success.mean / with_memory.success.mean if with_memory.success.mean else 0.0,
            "memory_tokens_before": prompts(f"eval/{generation}/", ""),
            "memory_tokens_after": prompts(f"eval/{generation}/", f"alone-{found.adapter}"),
            "tokens_per_success_before": _per_success(with_memory),
            "tokens_per_success_after": _per_success(alone),
            "intervals": {
                name: [each.success.low, each.success.high]
                for name, each in (("with_rules", with_memory), ("without_rules", alone), ("base", frozen))
            },
            "n": alone.success.n,
            **_told(found),
            "training": dict(adapter.card.metrics),
            "out": str(directory),
        }


async def _abilities(
    context: Context,
    model: RoleModel,
    arm: str,
    *,
    elsewhere: Sequence[tuple[EnvironmentSpec, int]],
    texts: int,
    generation: int,
) -> dict[str, Ability]:
    """By name: success in each environment, and how well prose is expected where the model can tell."""
    found = {}
    for spec, n in elsewhere:
        name = str(spec.options.get("task", spec.name))
        context.say(f"{name}: {n} tasks by {arm}")
        found[name] = await success(context, model, spec, n=n, arm=arm, generation=generation)
    if texts and isinstance(model.model, Scorer):
        key = f"{generation}/prose/{arm}/{texts}"
        known = context.memory.ledger.memo(key)
        if known is None:
            context.say(f"{texts} paragraphs of prose by {arm}")
            measured = await perplexity(model.model, prose(texts))
            known = json.dumps(dict(measured.items))
            context.memory.ledger.add_memo(key, known)
        found["prose"] = Ability(json.loads(known), better="lower")
    return found


def _told(found: Distilled) -> dict[str, Any]:
    change = found.retirement
    return {
        "adapter": found.adapter,
        "gate": asdict(found.gate),
        "retirement": asdict(change) if change else None,
        "retired": len(found.retired),
        "commit": found.commit,
    }


def _per_success(evaluation: Evaluation) -> float | None:
    """Prompt tokens for each solved task; None where none was."""
    solved = evaluation.solved * len(evaluation.scores)
    return evaluation.cost.tokens_in / solved if solved else None


def _memory_tokens(context: Context, model: RoleModel, begins: str, arm: str) -> float:
    """Tokens of what memory put into the prompts, an episode, each said once; four characters each where the model
    cannot count."""
    count: Callable[[str], int] = getattr(model.model, "count_tokens", lambda text: len(text) // 4)
    episodes = [
        each
        for each in context.memory.ledger.episodes(phase="eval")
        if each.key.startswith(begins) and (each.key.endswith(f"/{arm}") if arm else each.key.count("/") == 3)
    ]
    texts = [
        message.text
        for episode in episodes
        for trajectory in episode.trajectories
        for step in trajectory.steps
        for message in step.messages
        if message.part == "memory" and message.text
    ]
    return sum(map(count, texts)) / max(1, len(episodes))
