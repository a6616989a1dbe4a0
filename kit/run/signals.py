"""Signals that ask a run to end: it finishes the step and writes a checkpoint first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from kit.train.callback import Callback
from kit.train.loop import LoopState


class StopOnSignal(Callback):
    """Stops training after the step in which a signal came.

    Attributes:
        caught: The first signal that asked for an end, if one did.
    """

    caught: signal.Signals | None = None

    def wants_to_stop(self, state: LoopState) -> bool:  # noqa: ARG002
        """Whether a signal came."""
        return self.caught is not None


@contextmanager
def watch_signals(say: Callable[[str], None] | None = None) -> Iterator[StopOnSignal]:
    """Note Ctrl-C, SIGTERM, and SIGHUP of a terminal that closes, instead of dying of them.

    The first one asks for an end; a Ctrl-C after it acts as usual. Further ones of the others change nothing: queues
    and terminals send several, and who means it has SIGKILL. What is ignored, as under ``nohup``, stays so. Python
    sets signal handlers in its main thread alone; in another thread, as of a notebook's kernel, nothing is noted.

    Args:
        say: Called with what will happen, in a thread.
    """
    stop = StopOnSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    asks = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: handler for number in asks if (handler := signal.getsignal(number)) != signal.SIG_IGN}

    def note(number: int, _frame: FrameType | None) -> None:
        if stop.caught is not None:
            return
        stop.caught = signal.Signals(number)
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
        if say is not None:
            # Not here: the signal may have come in the middle of a write to the same stream.
            text = f"{stop.caught.name}: ends after this step with a checkpoint; Ctrl-C ends it at once"
            threading.Thread(target=say, args=(text,), daemon=True).start()

    try:
        for number in before:
            signal.signal(number, note)
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
