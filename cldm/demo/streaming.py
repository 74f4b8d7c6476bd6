"""Work in a thread, as a stream of what it tells; whoever stops listening stops the work."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from threading import Event
from typing import Any


class CancelledWorkError(Exception):
    """Raised where the work tells something that nobody waits for any more."""


async def stream(work: Callable[[Callable[[Any], None]], Any]) -> AsyncGenerator[Any, None]:
    """Run `work` in a thread, and yield what it tells and at last what it returns.

    Of what is told faster than it is taken, only the latest is yielded. When this generator is closed or cancelled, the
    next call of `tell` in the thread raises, which ends the work there.

    Args:
        work: Is given the function `tell`.

    Raises:
        Exception: What the work raises.
    """
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[Any] = asyncio.Queue()
    stopped, end = Event(), object()

    def tell(update: Any) -> None:
        if stopped.is_set():
            raise CancelledWorkError
        loop.call_soon_threadsafe(told.put_nowait, update)

    def ended(worker: "asyncio.Future[Any]") -> None:
        if not worker.cancelled():
            worker.exception()  # seen, even if nobody listens any more
        told.put_nowait(end)

    worker = loop.run_in_executor(None, work, tell)
    worker.add_done_callback(ended)
    try:
        while True:
            update = await told.get()
            while not told.empty():
                update = told.get_nowait()
            if update is end:
                break
            yield update
        yield worker.result()
    finally:
        stopped.set()
        del worker  # its error has this frame in its traceback, and with it all tensors where memory ran out
