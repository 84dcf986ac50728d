"""The worker: one thread that runs the jobs of all visitors, one after the other."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class JobCancelled(Exception):
    """Nobody waits for this job any more."""


class Job:
    """A piece of work for the worker, and how far it is.

    Args:
        work: is called with this job, and reports to it.
    """

    def __init__(self, work: Callable[[Job], None]) -> None:
        self.error: Exception | None = None
        self.share = 0.0
        self.stage = "waiting"
        self._work = work
        self._cancelled = threading.Event()
        self._finished = threading.Event()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def is_finished(self) -> bool:
        return self._finished.is_set()

    def cancel(self) -> None:
        """Ends the job at its next report."""
        self._cancelled.set()

    def report(self, share: float, stage: str) -> None:
        """Says how far the job is.

        Raises:
            JobCancelled: it is to end here.
        """
        if self.is_cancelled:
            raise JobCancelled
        self.share = min(share, 1.0)
        self.stage = stage

    def run(self) -> None:
        """Does the work. An error is kept in `error`."""
        try:
            self.report(0.0, "starting")
            self._work(self)
        except JobCancelled:
            pass
        except Exception as error:
            self.error = error
        finally:
            self._finished.set()


class Worker:
    """Runs jobs in the order in which they are submitted. The model serves one visitor at a time."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._change = threading.Condition()
        self._is_closed = False
        # A daemon, so that a computation that hangs does not keep the process alive.
        self._thread = threading.Thread(target=self._run_jobs, name="worker", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Job:
        """Puts a job at the end of the line."""
        with self._change:
            if self._is_closed:
                job.cancel()
            self._jobs.append(job)
            self._change.notify()
        return job

    def num_before(self, job: Job) -> int:
        """How many other jobs have to end before this one begins."""
        with self._change:
            jobs = [other for other in self._jobs if other is job or not other.is_cancelled]
        return jobs.index(job) if job in jobs else 0

    def close(self, *, timeout: float = 30.0) -> None:
        """Cancels all jobs and waits for the one that runs. torch aborts if Python ends while it computes.

        Args:
            timeout: in seconds.
        """
        with self._change:
            self._is_closed = True
            for job in self._jobs:
                job.cancel()
            self._change.notify()
        self._thread.join(timeout)

    def _run_jobs(self) -> None:
        while True:
            with self._change:
                while not self._jobs and not self._is_closed:
                    self._change.wait()
                if not self._jobs:
                    return
                job = self._jobs[0]
            job.run()
            with self._change:
                self._jobs.popleft()
