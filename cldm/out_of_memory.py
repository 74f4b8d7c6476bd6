"""Lack of memory, which every device says in words of its own, as one error that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import clear_frames

ASK_FOR_LESS = "ask for fewer images or a lower resolution"
DRAW_FEWER_AT_ONCE = "draw fewer images at once (batch_size=1), or ask for a lower resolution"


@contextmanager
def lack_of_memory_told(advice: str = ASK_FOR_LESS) -> Iterator[None]:
    """Raise a `MemoryError` with advice where memory does not do for the block; all other errors pass.

    Args:
        advice: What to do about it.

    Raises:
        MemoryError: If memory could not be allocated, on whatever device.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        from cldm.undisturbed import is_lack_of_memory  # slow to import, so not before it is needed

        if not is_lack_of_memory(error):
            raise
        clear_frames(error.__traceback__)  # of tensors, which they would hold for as long as the error is held
        raise MemoryError(f"out of memory: {advice}") from error
