"""Work in a thread of its own that ends with it: so are tensors computed on a CPU.

Every thread that computes keeps a team of OpenMP's workers for as long as it lives. Once there are more workers in a
process than cores, all of them sleep at each barrier instead of waiting for it, and everything takes twice as long:
training, say, beside a model that has answered before and is idle now.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


def compute(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`work(...)` in a thread of its own. Waits for it; what it raises is raised here."""
    future: Future[T] = Future()

    def worked() -> None:
        try:
            future.set_result(work(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  the caller raises it
            future.set_exception(error)

    thread = threading.Thread(target=worked, name="compute", daemon=True)
    thread.start()
    thread.join()
    return future.result()


async def computed(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The same without holding up the event loop."""
    return await asyncio.to_thread(partial(compute, work, *args, **kwargs))
