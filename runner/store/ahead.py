"""Threads that read ahead of what is needed, in its order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
Piece = TypeVar("Piece")


def ahead(
    work: Callable[[Piece], T], pieces: Iterable[Piece], threads: int
) -> Generator[T, None, None]:
    """Yield what is made of each piece, in their order; threads work ahead."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="data")
    waiting: deque[Future[T]] = deque()
    try:
        for piece in pieces:
            waiting.append(pool.submit(work, piece))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # who is interrupted does not wait for a download
        pool.shutdown(wait=False, cancel_futures=True)
