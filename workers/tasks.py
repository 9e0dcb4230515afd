"""The one task of the queue: run whatever may run next."""

from collections.abc import Callable

from huey import Huey
from huey.api import TaskWrapper

TASK_NAME = f"{__name__}.run_job"


def add_task(queue: Huey, work: Callable[[], None]) -> TaskWrapper:
    """Give a queue its task.

    Args:
        queue: a lane's queue.
        work: claims and runs waiting jobs of the lane until none waits. It is not told which job
            rang: the store says what may run next, the message is only a hint.
    """

    def run_job(job_id: str) -> None:  # noqa: ARG001  the id is for whoever reads the queue
        work()

    return queue.task()(run_job)
