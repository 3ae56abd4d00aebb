"""How far a judge can be believed, from pairs that it judged in both orders (MT-Bench, arXiv 2306.05685, §3 and §4).

Verdicts in, shares out; which model and which prompt stand behind them is for others to say.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evolvent.agents.evaluation.agreement import Agreement, agreement
from evolvent.agents.feedback.judge import Both
from evolvent.environments.judging import Verdict


@dataclass(frozen=True, slots=True)
class Rate:
    share: float | None
    """In [0, 1]; None of nothing."""
    n: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A pair whose truth is known. All verdicts are in the names of its first order."""

    both: Both
    truth: Verdict
    longer: Verdict | None = None
    """The answer that says the same as the other in more words, where one does."""
    bare: Both | None = None
    """What was said without the reference, where there is one."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """What verdicts are worth; those that could not be read are left out."""

    coverage: Rate
    """Pairs for which a winner was named, of those that have one."""
    precision: Rate
    """Winners that were named and are the better answer."""
    accuracy: Rate
    """Verdicts that are the truth, ties included."""


@dataclass(frozen=True, slots=True)
class Setups:
    """Agreement with votes, in the paper's two ways to count."""

    all_votes: Agreement
    """An inconsistent judge has voted for a tie."""
    decided: Agreement
    """Only where both the judge, consistently, and the vote name a winner."""


def audit(pairs: Mapping[str, Judged]) -> dict[str, Any]:
    """All of it, in plain values."""
    judged, both = list(pairs.values()), [each.both for each in pairs.values()]
    referred = [each for each in judged if each.bare is not None]
    bare = [Judged(each.bare, each.truth) for each in referred if each.bare is not None]
    setups = with_votes(
        {name: each.both for name, each in pairs.items()}, {name: (each.truth,) for name, each in pairs.items()}
    )
    return {
        "pairs": len(both),
        "dropped": sum(not each.readable for each in both),
        "with_filter": asdict(with_filter(judged)),
        "single": asdict(single(judged)),
        "position_consistency": asdict(position_consistency(both)),
        "prefers_first": asdict(prefers_first(both)),
        "verbosity_failures": {
            "with_filter": asdict(verbosity_failures(judged, swap=True)),
            "single": asdict(verbosity_failures(judged, swap=False)),
        },
        "errors": {"with_reference": asdict(errors(referred)), "without_reference": asdict(errors(bare))},
        "agreement": asdict(setups),
    }


def with_filter(pairs: Iterable[Judged]) -> Decisions:
    """Of the verdicts that stand in both orders."""
    return _decisions([(each.both.verdict, each.truth) for each in pairs])


def single(pairs: Iterable[Judged]) -> Decisions:
    """Of each judgement by itself, both orders of a pair taken for two."""
    return _decisions([(said, each.truth) for each in pairs for said in (each.both.shown, each.both.swapped)])


def position_consistency(pairs: Iterable[Both]) -> Rate:
    """Pairs of which the judge said the same in both orders."""
    return _rate([each.consistent for each in pairs if each.readable])


def prefers_first(pairs: Iterable[Both]) -> Rate:
    """Pairs of which the first answer won both times, of those of which one place did."""
    said = [(each.shown, each.swapped) for each in pairs]
    # In the names of the first order, what stands first is A, and B when they are swapped.
    return _rate([each == ("A", "B") for each in said if each in (("A", "B"), ("B", "A"))])


def verbosity_failures(pairs: Iterable[Judged], *, swap: bool) -> Rate:
    """Verdicts for the answer that only has more words, of those on pairs with such a one.

    Args:
        swap: count what stands in both orders; else each judgement by itself.
    """
    said = [
        (verdict, each.longer)
        for each in pairs
        if each.longer is not None
        for verdict in ((each.both.verdict,) if swap else (each.both.shown, each.both.swapped))
    ]
    return _rate([verdict == longer for verdict, longer in said if verdict is not None])


def errors(pairs: Iterable[Judged]) -> Rate:
    """Judgements, each by itself, that are not the truth."""
    found = single(pairs).accuracy
    return Rate(None if found.share is None else 1 - found.share, found.n)


def with_votes(judged: Mapping[str, Both], votes: Mapping[str, Sequence[Verdict]]) -> Setups:
    """Each vote beside the judge's; a pair that the judge left without a readable verdict is dropped.

    Args:
        votes: by pair, in the names of its first order; as many as there are voters.
    """
    ours: dict[str, str] = {}
    theirs: dict[str, str] = {}
    for name, both in judged.items():
        if both.verdict is not None:
            for voter, vote in enumerate(votes.get(name, ())):
                ours[f"{name}/{voter}"], theirs[f"{name}/{voter}"] = both.verdict, vote
    decided = {item for item in ours if "tie" not in (ours[item], theirs[item])}
    return Setups(agreement(ours, theirs), agreement(_only(ours, decided), _only(theirs, decided)))


def _decisions(verdicts: Sequence[tuple[Verdict | None, Verdict]]) -> Decisions:
    read = [(verdict, truth) for verdict, truth in verdicts if verdict is not None]
    return Decisions(
        coverage=_rate([verdict != "tie" for verdict, truth in read if truth != "tie"]),
        precision=_rate([verdict == truth for verdict, truth in read if verdict != "tie"]),
        accuracy=_rate([verdict == truth for verdict, truth in read]),
    )


def _rate(outcomes: Sequence[bool]) -> Rate:
    return Rate(sum(outcomes) / len(outcomes) if outcomes else None, len(outcomes))


def _only(verdicts: Mapping[str, str], items: Collection[str]) -> dict[str, str]:
    return {item: verdict for item, verdict in verdicts.items() if item in items}
