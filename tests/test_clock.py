"""Virtual time jumps to what is really due, and to nothing else."""

import asyncio
import time

from copier.clock import run_virtual


def test_an_hour_of_virtual_time_takes_no_real_time() -> None:
    began = time.monotonic()
    run_virtual(asyncio.sleep(3600))
    assert time.monotonic() - began < 1


def test_a_cancelled_timer_neither_moves_time_nor_holds_it_up() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        loop.call_later(5, print).cancel()
        await asyncio.sleep(100)
        return loop.time()

    began = time.monotonic()
    assert run_virtual(main()) == 100
    assert time.monotonic() - began < 1


def test_a_deadline_that_was_kept_leaves_the_clock_alone() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            async with asyncio.timeout(30):
                await asyncio.sleep(1)
        asyncio.get_running_loop().call_later(50, lambda: None)
        await asyncio.sleep(1)
        return loop.time()

    assert run_virtual(main()) == 4


def test_who_wakes_at_a_time_finds_that_it_is_that_time() -> None:
    """Two moments closer than the loop's resolution: who waits for the later one must not find the earlier."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(56.6)
        due, waits = loop.time() + 4e-14, 0
        while loop.time() < due and waits < 10:
            asyncio.get_running_loop().call_soon(lambda: None)
            await asyncio.sleep(due - loop.time())
            waits += 1
        return waits

    assert run_virtual(main()) == 1
