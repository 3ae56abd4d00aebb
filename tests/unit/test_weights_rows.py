"""Settings and rows before any weights are loaded, and how a batch is cut into forwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from evolvent.memory.errors import BadTrainingError
from evolvent.memory.weights.training import Encoded, Row, Training, fit, journal, open_folder, total_steps


def encode(row: Row) -> tuple[Encoded, ...]:
    """A token a letter."""
    return (Encoded([1] * len(row["prompt"]), [2] * (len(row["completion"]) + 1)),)


def kept(rows: list[dict[str, Any]], **settings: Any) -> list[Row]:
    return [row for row, _ in fit(rows, ("prompt", "completion"), encode, Training(**settings))]


def test_rows_that_are_too_long_are_left_out_and_the_others_keep_their_order() -> None:
    rows = [{"prompt": "p" * n, "completion": "c"} for n in (3, 9, 2, 8)]
    assert kept(rows, max_length=10) == [rows[0], rows[2], rows[3]]


def test_a_data_set_of_another_form_is_refused_with_the_columns_it_has() -> None:
    with pytest.raises(BadTrainingError, match=r"Row 1 has no 'completion', only chosen, prompt"):
        kept([{"prompt": "p", "completion": "c"}, {"prompt": "p", "chosen": "c"}])


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(BadTrainingError, match="No rows to train on"):
        kept([])
    with pytest.raises(BadTrainingError, match="All 1 rows have more than 4 tokens, the shortest 5"):
        kept([{"prompt": "pp", "completion": "cc"}], max_length=4)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"epochs": 3}, 9), ({"epochs": 0.5}, 2), ({"epochs": 0.01}, 1), ({"steps": 7, "epochs": 3}, 7)],
)
def test_epochs_are_counted_in_batches_unless_steps_are_given(settings: dict[str, Any], steps: int) -> None:
    assert total_steps(20, Training(batch_size=8, **settings)) == steps


def test_a_misspelt_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="learn_rate"):
        Training.model_validate({"learn_rate": 1e-4})


def test_a_folder_with_another_training_is_refused_and_one_with_the_same_is_gone_on_with(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": "c"}]
    begun = journal({"name": "sft"}, "base", None, rows, 0, Training())
    assert open_folder(tmp_path, begun, resume=True) is None
    assert open_folder(tmp_path, begun, resume=True) is None
    for other in (
        journal({"name": "kto"}, "base", None, rows, 0, Training()),
        journal({"name": "sft"}, "other", None, rows, 0, Training()),
        journal({"name": "sft"}, "base", None, rows * 2, 0, Training()),
        journal({"name": "sft"}, "base", None, rows, 0, Training(seed=1)),
        journal({"name": "sft"}, "base", tmp_path / "adapter", rows, 0, Training()),
    ):
        with pytest.raises(BadTrainingError, match="other rows, settings or base"):
            open_folder(tmp_path, other, resume=True)
    assert open_folder(tmp_path, other, resume=False) is None
    with pytest.raises(BadTrainingError, match="other rows"):
        open_folder(tmp_path, begun, resume=True)


def test_an_adapter_of_unknown_origin_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(BadTrainingError, match="unknown origin"):
        open_folder(tmp_path, journal({"name": "sft"}, "base", None, [], 0, Training()), resume=True)
