"""Reading of frames in a thread, ahead of their use."""

import queue
import threading
from collections.abc import Generator, Iterator

from fer_batch.video.planes import Frame


def prefetch_frames(frames: Generator[Frame], count: int) -> Iterator[Frame]:
    """Yield the same frames. A thread reads up to `count` of them before they are requested."""
    ready: queue.SimpleQueue[Frame | BaseException | None] = queue.SimpleQueue()
    free = threading.Semaphore(count)
    stopped = threading.Event()

    def read() -> None:
        end: BaseException | None = None
        try:
            while free.acquire() and not stopped.is_set():
                ready.put(next(frames))
        except StopIteration:
            pass
        except BaseException as error:
            end = error
        finally:
            frames.close()
            ready.put(end)

    thread = threading.Thread(target=read, name="prefetch", daemon=True)
    thread.start()
    try:
        while isinstance(item := ready.get(), Frame):
            free.release()
            yield item
            del item
        if item is not None:
            raise item
    finally:
        stopped.set()
        free.release()
        thread.join()
