"""Work in a thread as a stream, and what happens when nobody listens any more."""

import asyncio
import gc
import threading
import weakref
from contextlib import aclosing, suppress

import pytest

from cldm.demo.streaming import CancelledWorkError, stream


async def collected(work):
    return [update async for update in stream(work)]


def test_the_last_thing_told_and_the_result_come_through():
    def work(tell):
        for number in range(5):
            tell(number)
        return "done"

    *told, result = asyncio.run(collected(work))
    assert result == "done"
    assert told == sorted(told), "in order, some may be skipped"


def test_everything_is_yielded_to_who_takes_it_in_time():
    async def main():
        taken, seen = threading.Event(), []

        def work(tell):
            for number in range(4):
                tell(number)
                assert taken.wait(10)
                taken.clear()

        async for update in stream(work):
            seen.append(update)
            taken.set()
        return seen

    assert asyncio.run(main()) == [0, 1, 2, 3, None]


def test_errors_of_the_work_are_raised():
    def work(tell):
        tell(1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(collected(work))


@pytest.mark.parametrize("how", ["closed", "cancelled"])
def test_work_ends_when_nobody_listens(how):
    ended, go_on, outcome = threading.Event(), threading.Event(), []

    def work(tell):
        try:
            tell("first")
            assert go_on.wait(10)
            tell("second")
        except CancelledWorkError as error:
            outcome.append(error)
            raise
        finally:
            ended.set()

    async def closed():
        async with aclosing(stream(work)) as updates:
            assert await anext(updates) == "first"

    async def cancelled():
        async def listen():
            async for _ in stream(work):
                pass

        task = asyncio.create_task(listen())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def main():
        await {"closed": closed, "cancelled": cancelled}[how]()
        go_on.set()
        assert await asyncio.to_thread(ended.wait, 10)

    asyncio.run(main())
    assert len(outcome) == 1


def test_what_failed_work_held_is_free_when_its_error_is_told():
    class Tensors:
        pass

    held = []

    def work(tell):
        tensors = Tensors()
        held.append(weakref.ref(tensors))
        raise MemoryError

    async def main():
        with suppress(MemoryError):
            await collected(work)
        return held[0]()

    gc.disable()  # frames in a circle would wait for it
    try:
        assert asyncio.run(main()) is None
    finally:
        gc.enable()
