"""The writing connection's queue.

A statement of a cancelled caller can leave a transaction open: so only one task touches the connection.
Others hand it a job and wait for the outcome of the job.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

Connection = TypeVar("Connection")
Result = TypeVar("Result")

QUEUE_JOBS = 64


class JobQueue(ABC, Generic[Connection]):
    """Runs jobs one after the other, each in a transaction of its own."""

    def __init__(self) -> None:
        self._jobs: asyncio.Queue[tuple[Any, asyncio.Future[Any]] | None] = asyncio.Queue(QUEUE_JOBS)
        self._task: asyncio.Task[None] | None = None

    def _start(self, name: str) -> None:
        self._task = asyncio.create_task(self._work(), name=name)

    async def run(self, job: Callable[[Connection], Awaitable[Result]]) -> Result:
        """The job's result once it is committed. Raises what the engine's transaction raises."""
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        await self._jobs.put((job, done))
        return await done

    async def close(self) -> None:
        if self._task is not None:
            await self._jobs.put(None)
            await self._task

    @abstractmethod
    async def _transaction(self, job: Callable[[Connection], Awaitable[Result]]) -> Result: ...

    async def _work(self) -> None:
        while (item := await self._jobs.get()) is not None:
            job, done = item
            try:
                result = await self._transaction(job)
            except BaseException as error:
                if not done.done():
                    done.set_exception(error)
                if not isinstance(error, Exception):
                    raise
            else:
                if not done.done():
                    done.set_result(result)
