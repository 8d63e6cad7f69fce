"""Runs a coroutine up to where it first waits without a task: most answers never wait.

asyncio supports other implementations of tasks (docs.python.org/3/library/asyncio-extending.html). What the first step
takes for its task, as `asyncio.timeout` does, acts for the task that continues it.
"""

import asyncio
from asyncio import tasks
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from types import coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def first_step(work: Coroutine[Any, Any, Result], loop: asyncio.AbstractEventLoop) -> Result | asyncio.Task[Result]:
    """The result of `work`, or the task that continues it if it has to wait."""
    context, current = copy_context(), _Current()
    tasks._enter_task(loop, current)  # type: ignore[arg-type]  # it acts for the task
    try:
        awaited = context.run(work.send, None)
    except StopIteration as end:
        result: Result = end.value
        return result
    finally:
        tasks._leave_task(loop, current)  # type: ignore[arg-type]
    task = loop.create_task(_continued(work, awaited), context=context)
    current.task = task
    return task


@coroutine
def rest(work: Coroutine[Any, Any, Result], awaited: Any) -> Generator[Any, Any, Result]:
    """Awaits what is left of `work`, which waits for `awaited`."""
    try:
        while True:
            try:
                sent = yield awaited
            except BaseException as error:
                awaited = work.throw(error)
            else:
                awaited = work.send(sent)
    except StopIteration as end:
        result: Result = end.value
        return result


async def _continued(work: Coroutine[Any, Any, Result], awaited: Any) -> Result:
    return await rest(work, awaited)


class _Current:
    """The current task of a first step."""

    task: asyncio.Task[Any] | None = None

    def cancel(self, msg: object = None) -> bool:
        """Cancel the task; false while there is none, since the step is not over."""
        return self.task is not None and self.task.cancel(msg)

    def cancelling(self) -> int:
        """How many cancellations the task has not dealt with."""
        return 0 if self.task is None else self.task.cancelling()

    def uncancel(self) -> int:
        """Say that one of them is dealt with."""
        return 0 if self.task is None else self.task.uncancel()
