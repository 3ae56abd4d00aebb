"""The in-weight update of a run: a data set becomes an adapter that is named, remembered and proved to be served.

What is trained on, and whether the adapter is any good, is the caller's business. Here a training is done once under
its name, goes on after a kill, and leaves two records in memory, so that whatever an episode taught can be traced into
weights and out again.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evolvent.agents.context import Context
from evolvent.agents.errors import SetupError
from evolvent.agents.evolution import keep
from evolvent.agents.models.protocol import Adaptable, Scorer
from evolvent.agents.models.role import RoleModel
from evolvent.agents.models.verify import verify
from evolvent.memory.compute import computed
from evolvent.memory.errors import BadCanariesError
from evolvent.memory.types import Event
from evolvent.memory.weights import canaries
from evolvent.memory.weights.adapters import Adapter, Adapters, adapter_id, adapter_record
from evolvent.memory.weights.dataset import DataSet, dataset_record, first_turn, write_jsonl
from evolvent.memory.weights.prompts import Reward
from evolvent.memory.weights.training import OnStep, Step, Trained, Training

if TYPE_CHECKING:
    from evolvent.memory.weights.ppo_step import Ppo
    from evolvent.memory.weights.regularize import Elastic

logger = logging.getLogger(__name__)

Method = Literal["sft", "dpo", "kto"]
_CANARY_PROMPTS = 8
"""Tried; the eight that show the adapter best are kept."""
_REPORTS = 20
"""Lines of progress a training writes."""


async def train(
    context: Context,
    name: str,
    dataset: DataSet,
    *,
    generation: int,
    method: Method = "sft",
    training: Training = Training(),
    start: Adapter | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Adapter:
    """The adapter that `dataset` makes, registered in the run's directory and a candidate in its memory.

    Canaries are measured at once, against the base and against `start`. An adapter that they cannot tell from those
    has learned nothing: it is rejected in memory, with the reason, and returned all the same.

    Args:
        name: of this training within its generation; asked for again, the adapter is there already.
        start: an adapter that is trained on; None trains the base anew.
        settings: of the method, such as `beta`.

    Raises:
        SetupError: the actor's weights cannot be trained.
        BadTrainingError, DivergedError: see `memory/weights/sft.py`.
    """
    folder = context.directory / "training" / f"{generation}-train-{name}"
    work = _trainer(method, weights_of(context), dataset, folder, training, start, dict(settings or {}))
    config = {"method": method, **dict(settings or {}), **training.model_dump(mode="json")}
    return await _trained(context, name, dataset, work, generation=generation, start=start, config=config)


async def reinforce(
    context: Context,
    name: str,
    dataset: DataSet,
    *,
    generation: int,
    reward: Reward,
    training: Training,
    settings: Ppo,
    elastic: Elastic | None = None,
    until: int | None = None,
    before: Adapter | None = None,
) -> Adapter:
    """The adapter that PPO has made of the base when it has asked for replies to these prompts so many times.

    One training may be spread over generations: asked for in a later one with a later `until`, it goes on where it
    stopped, critic, optimizer and moving average with it. What it measured is `metrics.jsonl` beside the adapter.
    Registered, remembered and given canaries as `train` does.

    Args:
        name: of this training within the run.
        dataset: only its prompts are trained on.
        until: updates in all; None is to the end of the training.
        before: what the training had made when it stopped the last time.

    Raises:
        SetupError: the actor's weights cannot be trained.
        BadTrainingError, DivergedError: see `memory/weights/ppo.py`.
    """
    base, folder = weights_of(context), context.directory / "training" / name
    how: dict[str, Any] = {"reward": reward, "settings": settings, "elastic": elastic, "until": until}
    config = {
        **{"method": "ppo", "elastic": elastic.model_dump() if elastic else None},
        **{**settings.model_dump(), **training.model_dump(mode="json")},
    }

    def work(on_step: OnStep) -> Trained:
        from evolvent.memory.weights.ppo import train_ppo

        return train_ppo(base, dataset.rows, folder, training, on_step=on_step, **how)

    return await _trained(context, name, dataset, work, generation=generation, start=before, config=config)


async def classify(
    context: Context,
    name: str,
    dataset: DataSet,
    work: Callable[[str, Path, OnStep], Trained],
    *,
    generation: int,
    start: Adapter | None = None,
    config: Mapping[str, Any],
) -> Adapter:
    """The adapter that `work(base, folder, on_step)` leaves in `folder`, such as a classifier, kept as `train` does.

    Args:
        dataset: all that it is trained on.
        config: of the training, JSON values.

    Raises:
        SetupError: the actor's weights cannot be trained.
    """
    base, folder = weights_of(context), context.directory / "training" / f"{generation}-train-{name}"

    def run(on_step: OnStep) -> Trained:
        return work(base, folder, on_step)

    return await _trained(context, name, dataset, run, generation=generation, start=start, config=config)


async def served(context: Context, adapter: Adapter | None, role: str = "actor") -> RoleModel:
    """A role's model with that adapter on top, once its canaries say that it is what is served; None is the base.

    An adapter that canaries cannot tell from its base has none, and nothing to be verified.

    Raises:
        SetupError: the model serves no adapters.
        AdapterDamagedError: the files are not what was registered.
        AdapterMismatchError: something else is served.
    """
    plain = context.model(role)
    if adapter is None:
        return plain
    name = f"{plain.name}+{adapter.full_name}"
    if name not in context.served:
        if not isinstance(plain.model, Adaptable):
            raise _cannot(plain)
        Adapters(context.directory).check(adapter)
        model = plain.serving(name, plain.model.with_adapter(adapter.folder))
        if (adapter.folder / canaries.FILE).exists() and isinstance(model.model, Scorer):
            base = plain.model if isinstance(plain.model, Scorer) else None
            await verify(model.model, canaries.read(adapter.folder), base=base)
        context.served[name] = model
    return context.served[name]


def active_adapter(context: Context) -> Adapter | None:
    """The adapter in use, as memory says; the newest where several are."""
    records = context.memory.records().values()
    active = {record.id for record in records if record.kind == "adapter" and record.status == "active"}
    found = [each for each in Adapters(context.directory).ls() if adapter_id(each.full_name) in active]
    return found[-1] if found else None


def weights_of(context: Context, role: str = "actor") -> str:
    """The folder, or hub id, of the weights behind a role.

    Raises:
        SetupError: they cannot be trained.
    """
    model = context.model(role)
    if not isinstance(model.model, Adaptable):
        raise _cannot(model)
    return model.model.path


# -- inside ------------------------------------------------------------------------------------------------------------


def _cannot(model: RoleModel) -> SetupError:
    return SetupError(
        f"Model {model.name} has no weights that can be trained or served with an adapter. "
        "Take one that has: smollm2, hf:FOLDER or vllm:MODEL."
    )


async def _trained(
    context: Context,
    name: str,
    dataset: DataSet,
    work: Callable[[OnStep], Trained],
    *,
    generation: int,
    start: Adapter | None,
    config: Mapping[str, Any],
) -> Adapter:
    """What `work` makes, once: with canaries, in the registry and in memory."""
    key = f"{generation}/train/{name}"
    known = context.memory.ledger.memo(key)
    if known is not None:
        return Adapters(context.directory).get(known)
    context.say(f"generation {generation}: training {name} on {len(dataset)} rows")
    write_jsonl(dataset, context.directory / "datasets" / f"{dataset.name}@{dataset.hash}")
    trained = await _in_thread(work, _progress(context, name))
    prompts, completions = _asked(dataset)
    rivals = {start.full_name: start.folder} if start else {}
    useless = ""
    try:
        found = await computed(
            canaries.measure, weights_of(context), trained.folder, prompts, completions=completions, rivals=rivals
        )
        canaries.write(trained.folder, found)
    except BadCanariesError as error:
        useless = str(error)
        (trained.folder / canaries.FILE).unlink(missing_ok=True)  # of an earlier part of this training
        logger.warning("%s", useless)
    record = dataset_record(dataset, generation=generation)
    adapter = Adapters(context.directory).register(
        trained.folder,
        name,
        base=context.model("actor").name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=record,
        parents=(start,) if start else (),
        config=config,
        metrics={
            "loss": round(trained.loss, 4),
            "steps": len(trained.curve),
            "rows": trained.rows,
            "tokens": trained.tokens,
            "seconds": round(trained.seconds, 1),
            "peak_bytes": trained.peak_bytes,
        },
    )
    own = adapter_record(adapter, generation=generation)
    events = [Event("add", record.id, record), Event("add", own.id, own)]
    if useless:
        events.append(Event("reject", own.id, payload={"reason": useless}))
    keep(context, f"train-{name}", generation, events)
    context.memory.ledger.add_memo(key, adapter.full_name)
    if len(trained.curve) == trained.curve[-1].of:  # else a later generation goes on from what lies there
        shutil.rmtree(trained.folder, ignore_errors=True)
    return adapter


def _asked(dataset: DataSet) -> tuple[list[Any], list[str]]:
    """(prompts, completions) that canaries are chosen from, spread over the rows."""
    step = max(1, len(dataset) // _CANARY_PROMPTS)
    some = dataset.items[::step][:_CANARY_PROMPTS]
    return [item.messages for item in some], [first_turn(item) for item in some]


def _trainer(
    method: Method,
    base: str,
    dataset: DataSet,
    folder: Path,
    training: Training,
    start: Adapter | None,
    settings: dict[str, Any],
) -> Callable[[OnStep], Trained]:
    """A function of `on_step` that trains."""
    at = start.folder if start else None

    def run(on_step: OnStep) -> Trained:
        from evolvent.memory.weights.preference import train_dpo, train_kto
        from evolvent.memory.weights.sft import train_sft

        trainers: dict[Method, Any] = {"sft": train_sft, "dpo": train_dpo, "kto": train_kto}
        trained: Trained = trainers[method](base, dataset.rows, folder, training, start=at, on_step=on_step, **settings)
        return trained

    return run


def _progress(context: Context, name: str) -> OnStep:
    def tell(step: Step) -> None:
        if step.step % max(1, step.of // _REPORTS) == 0 or step.step == step.of:
            context.say(f"training {name}: step {step.step} of {step.of}, loss {step.loss:.3f}")

    return tell


class _StoppedError(Exception):
    """Ends the thread of a training that nobody waits for any more."""


async def _in_thread(work: Callable[[OnStep], Trained], tell: OnStep) -> Trained:
    """What `work(on_step)` gives. Cancelled, it stops at its next step; what it has saved is gone on with later."""
    stop = threading.Event()

    def on_step(step: Step) -> None:
        if stop.is_set():
            raise _StoppedError
        tell(step)

    try:
        trained: Trained = await computed(work, on_step)
    except asyncio.CancelledError:
        stop.set()
        raise
    return trained
