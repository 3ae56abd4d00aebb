"""The signature of evolutionary model merge, line by line: a whole run in both spaces over real, small weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from systems.runs import generations, memory_of, play, resume, visited
from systems.signs import TRAINING, WIDE
from tiny_llama import write_base
from torch import Tensor
from transformers import AutoModelForCausalLM

from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.recipes.evolutionary_model_merge import Config, write
from evolvent.agents.run import RunConfig, result
from evolvent.memory.quiet import quiet_transformers
from evolvent.memory.weights.adapters import Adapter, Adapters
from evolvent.memory.weights.layer_stack import LayerStack
from evolvent.memory.weights.merge import fold
from evolvent.memory.weights.merge_search import DataFlowSpace, Genome
from evolvent.memory.weights.merged import MergedModels

IDS = torch.tensor([[5, 17, 80, 33, 120, 7, 7, 64], [9, 200, 31, 4, 55, 101, 18, 2]])
POPULATION, IN_WEIGHTS, IN_LAYERS = 4, 2, 1
"""Genomes of a generation; generations that search in the space of weights, then in that of layers."""
SETTINGS: dict[str, Any] = {
    **TRAINING,
    **{"skills": [{"family": "letters"}, {"family": "digits"}], "population": POPULATION, "fitness": 24},
    **{"groups": 1, "layers_from": IN_WEIGHTS + 1, "largest_change": None},
}
CONFIG = RunConfig(
    recipe="evolutionary-model-merge",
    environment="systems.signs:Signs",
    tasks=48,
    evaluated=48,
    generations=IN_WEIGHTS + IN_LAYERS,
    embedder="hash",
    settings=SETTINGS,
)
SETTLED = Config(**SETTINGS)
WEIGHTS, LAYERS = 1, IN_WEIGHTS + 1
"""Generations of the two spaces."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"), **WIDE)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: str) -> Path:
    return play(tmp_path_factory.mktemp("evolved") / "run", CONFIG, {"actor": LocalChatModel(path=base)})


@pytest.fixture(scope="module")
def sources(run: Path) -> list[Adapter]:
    registry = Adapters(run)
    return [registry.get("skill-1"), registry.get("skill-2")]


@pytest.fixture(scope="module")
def folded(base: str, sources: list[Adapter], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("folded")
    return [fold(base, each.folder, folder / each.card.name) for each in sources]


def searches(run: Path) -> list[dict[str, Any]]:
    return [row["search"] for row in generations(run)[1:]]


def tensors(folder: str | Path) -> dict[str, Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def logits(folder: str | Path) -> Tensor:
    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        found = model(input_ids=IDS).logits
    assert isinstance(found, Tensor)
    return found


@pytest.mark.signature("evolutionary-model-merge", 0)
def test_the_winner_is_made_again_from_its_genome_and_no_source_was_touched(
    base: str, run: Path, sources: list[Adapter], tmp_path: Path
) -> None:
    registry = Adapters(run)
    for each in sources:
        registry.check(each)  # against the hashes of when it was trained
    winner = MergedModels(run).get(generations(run)[IN_WEIGHTS]["model"]["adapter"])
    genome: Genome = tuple(winner.card.how["genome"])
    made = write(base, [each.folder for each in sources], genome, tmp_path / "again", SETTLED, generation=WEIGHTS)
    found = hashlib.sha256((made / "model.safetensors").read_bytes()).hexdigest()
    assert found == winner.card.files["model.safetensors"]


@pytest.mark.signature("evolutionary-model-merge", 1)
def test_the_best_so_far_never_falls_and_evaluations_are_population_times_generations(run: Path) -> None:
    told = searches(run)
    assert [each["space"] for each in told] == ["parameters"] * IN_WEIGHTS + ["layers"] * IN_LAYERS
    best = told[IN_WEIGHTS - 1]["best_so_far"]
    assert best == sorted(best)
    assert best[-1] == max(score for each in told[:IN_WEIGHTS] for score in each["scores"])
    assert told[IN_WEIGHTS - 1]["evaluations"] == POPULATION * IN_WEIGHTS
    assert told[-1]["evaluations"] == POPULATION * IN_LAYERS
    with memory_of(run) as memory:
        scored = {each.key.rpartition("/")[2] for each in memory.ledger.episodes(phase="gate")}
    assert len(scored) == POPULATION * CONFIG.generations


@pytest.mark.signature("evolutionary-model-merge", 2)
def test_the_inner_layers_of_one_source_in_order_and_no_scaling_are_that_source(
    base: str, folded: list[Path], tmp_path: Path
) -> None:
    genome = DataFlowSpace(layers=(2, 2)).start()
    stacked = write(base, folded, genome, tmp_path / "first", SETTLED, generation=LAYERS)
    torch.testing.assert_close(logits(stacked), logits(folded[0]))


@pytest.mark.signature("evolutionary-model-merge", 3)
def test_a_layer_that_is_included_twice_runs_twice_and_a_hop_of_0_scales_by_1(
    base: str, folded: list[Path], tmp_path: Path
) -> None:
    space = DataFlowSpace(layers=(2, 2), repeats=2)
    genome = list(space.start())
    genome[2] = genome[6] = 1.0  # the first layer of the second source, in both rounds
    assert space.stack(tuple(genome)) == LayerStack((0, 2, 2, 1), (1.0, 1.0, 1.0))
    twice = SETTLED.model_copy(update={"repeats": 2})
    stacked = tensors(write(base, folded, tuple(genome), tmp_path / "twice", twice, generation=LAYERS))
    source = tensors(folded[1])
    name = "self_attn.o_proj.weight"
    for place in (1, 2):
        assert torch.equal(stacked[f"model.layers.{place}.{name}"], source[f"model.layers.0.{name}"])


@pytest.mark.signature("evolutionary-model-merge", 4)
@pytest.mark.parametrize("chosen", [0, 1])
def test_all_of_one_source_and_nothing_of_the_others_is_that_source(
    base: str, sources: list[Adapter], folded: list[Path], tmp_path: Path, chosen: int
) -> None:
    genome = tuple(float(number) for source in (0, 1) for number in (source == chosen, 1))
    made = tensors(write(base, [s.folder for s in sources], genome, tmp_path / "made", SETTLED, generation=WEIGHTS))
    for name, weight in tensors(folded[chosen]).items():
        torch.testing.assert_close(made[name], weight, atol=1e-6, rtol=1e-5)


@pytest.mark.signature("evolutionary-model-merge", 5)
def test_no_held_out_task_is_ever_scored_by_the_search(run: Path) -> None:
    with memory_of(run) as memory:
        fitness, judged = (
            {
                hashlib.sha256(each.task.prompt.encode()).hexdigest()
                for episode in memory.ledger.episodes(phase=phase)
                for each in episode.trajectories
            }
            for phase in ("gate", "eval")
        )
    assert fitness
    assert judged
    assert not fitness & judged


def test_the_evolved_merge_does_better_than_either_source_on_the_tasks_of_both(run: Path) -> None:
    before, *rest = generations(run)
    best = rest[IN_WEIGHTS - 1]
    assert before["solved"] <= 0.65
    assert best["solved"] > 0.75, "a source that knows one of two families and guesses the other has three quarters"


def test_sources_are_made_once_and_every_generation_goes_through_each_phase_in_turn(run: Path) -> None:
    assert visited(run) == (
        ["baseline", "demonstrate", "specialise"] + ["propose", "score", "select", "evaluate"] * CONFIG.generations
    )


def test_a_finished_run_that_is_resumed_scores_nothing_again(run: Path, base: str) -> None:
    before = result(run)
    resume(run, {"actor": LocalChatModel(path=base)})
    assert result(run) == before
