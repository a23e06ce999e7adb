# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Stopping between two steps when the user or the machine asks for it."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Training was stopped between two steps, and everything was saved; the text says how to go on."""


class Interruption:
    """
    Within a ``with`` block the first SIGINT (Ctrl-C) or SIGTERM sets :attr:`asked`; a second one acts as usual:
    it ends the program, or does nothing where the program was started with the signal ignored.

    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    asked: bool = False

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._ask:  # or somebody else has set another since
                signal.signal(number, handler)
        self._before = {}
