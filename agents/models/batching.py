"""Many callers, one worker thread: requests that wait together are answered together."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")

Run = Callable[[Sequence[Request]], Sequence[Answer | Exception]]
"""Answers a batch in its order; a request that failed alone is answered with its exception."""

_EXIT_S = 5.0
"""The interpreter waits for a running batch no longer than this."""


@dataclass(slots=True)
class _Job(Generic[Request, Answer]):
    request: Request
    future: Future[Answer] = field(default_factory=Future)


class Batcher(Generic[Request, Answer]):
    """Runs requests in batches on a thread of its own, so it serves any number of event loops and threads.

    A request that comes alone is run at once. After a batch of several the worker expects as many again, and
    waits for them until no request came for `gap_s`, at most `window_s`; or, where that is longer, for a hundredth and
    at most a tenth of what that batch took: whoever plays many episodes needs milliseconds to ask for each next reply.
    """

    def __init__(
        self, run: Run[Request, Answer], *, limit: int = 32, gap_s: float = 0.003, window_s: float = 0.02
    ) -> None:
        self._jobs: queue.SimpleQueue[_Job[Request, Answer] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=_work, args=(self._jobs, run, limit, gap_s, window_s), name="batcher", daemon=True
        )
        self._thread.start()
        # Also runs at interpreter exit, where a daemon thread should not be cut off inside native code.
        self._finalizer = weakref.finalize(self, _stop, self._jobs, self._thread, _EXIT_S)

    def submit(self, request: Request) -> Future[Answer]:
        if not self._finalizer.alive:
            raise RuntimeError("This batcher is closed; nothing answers its requests any more.")
        job: _Job[Request, Answer] = _Job(request)
        self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Answer what was submitted, then end the thread."""
        if self._finalizer.detach() is not None:
            _stop(self._jobs, self._thread, None)


def _stop(
    jobs: queue.SimpleQueue[_Job[Request, Answer] | None], thread: threading.Thread, timeout_s: float | None
) -> None:
    jobs.put(None)
    if thread is not threading.current_thread():
        thread.join(timeout_s)


def _work(
    jobs: queue.SimpleQueue[_Job[Request, Answer] | None],
    run: Run[Request, Answer],
    limit: int,
    gap_s: float,
    window_s: float,
) -> None:
    expected, took_s = 1, 0.0
    job = jobs.get()
    while job is not None:
        batch, deadline, last = [job], time.monotonic() + max(window_s, took_s / 10), False
        longest_s = max(gap_s, took_s / 100)
        while len(batch) < limit and not last:
            patience = min(longest_s, deadline - time.monotonic()) if len(batch) < expected else 0.0
            try:
                more = jobs.get(timeout=patience) if patience > 0 else jobs.get_nowait()
            except queue.Empty:
                break
            if more is None:
                last = True
            else:
                batch.append(more)
        start = time.monotonic()
        _answer([waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()], run)
        took_s = time.monotonic() - start
        expected = len(batch)
        job = None if last else jobs.get()


def _answer(batch: Sequence[_Job[Request, Answer]], run: Run[Request, Answer]) -> None:
    if not batch:
        return
    try:
        answers = run([job.request for job in batch])
    except Exception as error:  # noqa: BLE001  the callers raise it
        answers = [error] * len(batch)
    for job, answer in zip(batch, answers, strict=True):
        if isinstance(answer, Exception):
            job.future.set_exception(answer)
        else:
            job.future.set_result(answer)
