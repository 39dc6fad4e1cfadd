"""Which of the processes that work on a study are alive, on any storage.

Optuna's own heartbeat knows one kind of storage and trials that `optimize` runs. Here every
process writes a number that grows, and the others watch whether it does, each by its own clock:
neither clocks that differ nor one that is set back matter. Of a process on the same machine it is
known at once.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    import optuna

BEAT: Final = 2.0
"""Seconds between two beats."""

GRACE: Final = 30.0
"""Seconds without a beat after which a process on another machine counts as dead."""

_PREFIX: Final = "alive:"
# Sessions of this process that are open: its other ones are over, though it lives.
_open: set[str] = set()


def machine() -> str:
    """What tells apart processes that see each other: this boot of this machine or container."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    space = Path("/proc/self/ns/pid")
    words = [socket.gethostname()]
    if boot.exists():
        words.append(boot.read_text().strip()[:8])
    if space.exists():
        words.append(str(space.stat().st_ino))
    return "+".join(words)


class Session:
    """One process at work on one study.

    Args:
        study: The study.
        beat: Seconds between two beats.
    """

    def __init__(self, study: optuna.Study, beat: float = BEAT) -> None:
        self.id = f"{machine()}/{os.getpid()}/{_started(os.getpid())}/{uuid.uuid4().hex[:8]}"
        self._study, self._beat = study, beat
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def __enter__(self) -> Session:
        _open.add(self.id)
        self._study.set_user_attr(f"{_PREFIX}{self.id}", 0)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        _open.discard(self.id)
        # None says that it ended, and takes the place of a key, which no storage can delete. Where
        # the storage was lost, there is something better to say.
        with contextlib.suppress(Exception):
            self._study.set_user_attr(f"{_PREFIX}{self.id}", None)

    def _go_on(self) -> None:
        count = 0
        while not self._over.wait(self._beat):
            count += 1
            try:
                self._study.set_user_attr(f"{_PREFIX}{self.id}", count)
            except Exception:
                continue


class Watch:
    """What one process knows of the others of its study.

    Args:
        study: The study.
        grace: Seconds without a beat after which one counts as dead.
        clock: Seconds from any start, of this process alone.
    """

    def __init__(
        self,
        study: optuna.Study,
        grace: float = GRACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study, self._grace, self._clock = study, grace, clock
        self._seen: dict[str, tuple[int, float]] = {}
        self._orphans: dict[int, float] = {}

    def alive(self) -> set[str]:
        """Sessions that are not known to be dead or over."""
        now, found = self._clock(), set()
        for name, count in self._study.user_attrs.items():
            if not name.startswith(_PREFIX) or count is None:
                continue
            session = name.removeprefix(_PREFIX)
            here = _lives_here(session)
            if here is None:
                known = self._seen.get(session)
                if known is None or known[0] != count:
                    self._seen[session] = count, now
                here = now - self._seen[session][1] < self._grace
            if here:
                found.add(session)
        return found

    def is_orphan(self, number: int, owner: str | None, alive: set[str]) -> bool:
        """Whether nobody works on the running trial `number`.

        Args:
            number: Of the trial.
            owner: The session that took it, or None if that was not written yet.
            alive: From `alive`.
        """
        if owner is not None:
            return owner not in alive
        # Whoever took it was killed before it said so, unless it is about to.
        since = self._orphans.setdefault(number, self._clock())
        alone = alive <= _open
        return alone or self._clock() - since >= self._grace


def is_here(session: str) -> bool:
    """Whether a session is one of this machine."""
    return session.rsplit("/", 3)[0] == machine()


def _lives_here(session: str) -> bool | None:
    """Whether the process of a session of this machine lives; None if it is of another."""
    where, pid, started, _ = session.rsplit("/", 3)
    if where != machine():
        return None
    if int(pid) == os.getpid():
        return session in _open
    return _started(int(pid)) == started


def _started(pid: int) -> str:
    """When a process started, in ticks; empty if there is none, `?` where it cannot be told."""
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except OSError:
            pass
        return "?"
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The name, in parentheses, may hold anything.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
