"""Archives of video to emotion timelines: analyze with `fer-batch analyze`, ask with `open_timeline`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer_batch.timeline.store import Timeline, open_timeline

__all__ = ["Timeline", "open_timeline"]


def __getattr__(name: str) -> Any:
    """`fer_batch.open_timeline` without importing what it needs before it is used."""
    if name in __all__:
        from fer_batch.timeline import store

        return getattr(store, name)
    raise AttributeError(f"module 'fer_batch' has no attribute {name!r}")
