"""Processes that work for another: what an interrupt does to them, and to the one that starts them."""

import os
import signal
import threading
import time

import pytest

from aquasim.processes import undisturbed


def test_an_interrupt_waits_until_a_process_is_started() -> None:
    """Even if the system gives the signal to another thread; it is answered at the end, and handled as before."""
    ready, gone = threading.Event(), threading.Event()

    def other() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        ready.set()
        gone.wait(10)

    thread = threading.Thread(target=other)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    whole = False
    try:
        with undisturbed():
            thread.start()
            ready.wait(10)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            whole = True
        pytest.fail("nobody was interrupted")
    except KeyboardInterrupt:
        assert whole
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        gone.set()
        thread.join()
        signal.signal(signal.SIGINT, before)


def test_what_is_started_meanwhile_never_sees_an_interrupt() -> None:
    """It inherits a mask in which SIGINT is blocked; afterwards ours is as it was."""
    with undisturbed():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
