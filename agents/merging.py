"""Models that a run makes of other models: remembered as children of their parents, and proved to be served.

A sum of adapters is an adapter and goes to the registry of adapters. What prunes or masks has full rank; it is kept as
a folder of full weights, named in a generation's model as an adapter would be, and served instead of the base.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evolvent.agents.context import Context
from evolvent.agents.errors import SetupError
from evolvent.agents.evolution import keep
from evolvent.agents.models.protocol import Adaptable, Replaceable, Scorer
from evolvent.agents.models.role import RoleModel
from evolvent.agents.models.verify import verify
from evolvent.agents.weights import served, weights_of
from evolvent.memory.compute import computed
from evolvent.memory.errors import BadCanariesError, BadMergeError
from evolvent.memory.types import Event
from evolvent.memory.weights import canaries
from evolvent.memory.weights.adapters import Adapter, Adapters, adapter_record
from evolvent.memory.weights.merged import MergedModel, MergedModels, merged_record

_CANARY_PROMPTS = 8


async def register_merged(
    context: Context,
    name: str,
    folder: Path,
    *,
    generation: int,
    parents: Sequence[Adapter],
    how: Mapping[str, Any],
) -> Adapter:
    """An adapter that was made of others, such as `combine_adapters` writes, as `train` leaves one that was trained.

    Its canaries are the parents' prompts, measured anew. They tell it from the base, and from the parents unless those
    are too much alike.

    Args:
        name: of this merge within its generation; asked for again, the adapter is there already.
        how: settings of the merge, JSON values, for the card.

    Raises:
        BadMergeError: parents of different bases.
    """
    key, registry = f"{generation}/merge/{name}", Adapters(context.directory)
    known = context.memory.ledger.memo(key)
    if known is not None:
        return registry.get(known)
    check_one_base(parents)
    rivals = {each.full_name: each.folder for each in parents}
    prompts, completions = _asked(parents)
    for others in (rivals, {}):
        try:
            found = await computed(
                canaries.measure, weights_of(context), folder, prompts, completions=completions, rivals=others
            )
        except BadCanariesError:
            continue
        canaries.write(folder, found)
        break
    adapter = registry.register(
        folder,
        name,
        base=context.model("actor").name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        parents=parents,
        config=how,
    )
    record = adapter_record(adapter, generation=generation)
    keep(context, f"merge-{name}", generation, [Event("add", record.id, record)])
    context.memory.ledger.add_memo(key, adapter.full_name)
    return adapter


async def keep_weights(
    context: Context,
    name: str,
    folder: Path,
    *,
    generation: int,
    parents: Sequence[Adapter],
    how: Mapping[str, Any],
) -> MergedModel:
    """The same for a folder of full weights, which moves to the run's merged models."""
    key, registry = f"{generation}/merge/{name}", MergedModels(context.directory)
    known = context.memory.ledger.memo(key)
    if known is not None:
        return registry.get(known)
    check_one_base(parents)
    prompts, completions = _asked(parents)
    try:
        found = await computed(canaries.measure_merged, weights_of(context), folder, prompts, completions=completions)
        canaries.write(folder, found)
    except BadCanariesError:  # it is the base but for a hair: there is nothing to be verified
        pass
    merged = registry.register(
        folder,
        name,
        base=context.model("actor").name,
        parents=[each.full_name for each in parents],
        how=how,
    )
    record = merged_record(merged, generation=generation)
    keep(context, f"merge-{name}", generation, [Event("add", record.id, record)])
    context.memory.ledger.add_memo(key, merged.full_name)
    return merged


async def acting(context: Context, full_name: str, role: str = "actor") -> RoleModel:
    """A role's model with the weights called so: the base (empty), an adapter on top of it, or a merged model.

    Merged models are loaded anew each time and gone with their last user: they are as large as the base.

    Raises:
        SetupError: the model serves no such weights.
        AdapterDamagedError: the files are not what was registered.
        AdapterMismatchError: something else is served.
    """
    registry = MergedModels(context.directory)
    if not registry.known(full_name):
        return await served(context, Adapters(context.directory).get(full_name) if full_name else None, role)
    merged = registry.check(registry.get(full_name))
    model = await on_trial(context, full_name, merged.folder, role)
    if (merged.folder / canaries.FILE).exists() and isinstance(model.model, Scorer):
        await verify(model.model, canaries.read(merged.folder))
    return model


async def on_trial(context: Context, name: str, folder: Path, role: str = "actor") -> RoleModel:
    """A role's model with an adapter or full weights that no registry holds (yet), under that name.

    Raises:
        SetupError: the model serves no such weights.
    """
    plain = context.model(role)
    if (folder / "adapter_config.json").exists():
        if not isinstance(plain.model, Adaptable):
            raise SetupError(f"Model {plain.name} serves no adapters. Take one that does: smollm2, hf:FOLDER.")
        model = await computed(plain.model.with_adapter, folder)
    else:
        if not isinstance(plain.model, Replaceable):
            raise SetupError(f"Model {plain.name} cannot run merged weights. Take one that can: smollm2, hf:FOLDER.")
        gc.collect()  # the last one tried is held by its own cycles, and has the size of the base
        model = await computed(plain.model.with_weights, folder)
    return plain.serving(f"{plain.name}+{name}", model)


def scratch(context: Context, name: str) -> Path:
    """A folder of that name in the run's directory that is not there yet; what a killed process left is deleted."""
    folder = context.directory / "merging" / name
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def check_one_base(parents: Sequence[Adapter]) -> None:
    """
    Raises:
        BadMergeError: parents of different bases, whose weights mean different things.
    """
    bases = sorted({each.card.base for each in parents})
    if len(bases) != 1:
        raise BadMergeError(f"Parents of the bases {', '.join(bases)}; only models tuned from one base can be mixed.")


def _asked(parents: Sequence[Adapter]) -> tuple[list[Any], list[str]]:
    """(prompts, completions) of the parents' own canaries, as many of each."""
    each = max(1, _CANARY_PROMPTS // len(parents))
    some = [
        canary
        for parent in parents
        if (parent.folder / canaries.FILE).exists()
        for canary in canaries.read(parent.folder)[:each]
    ]
    return [canary.messages for canary in some], [canary.completion for canary in some]
