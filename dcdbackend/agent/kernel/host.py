"""The kernel host's requests: one table of them, each checked before anything is done.

`KernelHost.handle` takes {"what", ...} and gives what the reply holds. A refusal by the kernel is no error of the
request: it comes as {"refused": {"errno", "path", "wrote"}}, because that is what is to be judged. Errors are for what
was asked wrongly and what this machine cannot do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ...errors import AskedWrongly, CannotRun
from ...history import encode
from . import dax, modules, raw, region
from .data import Mappings
from .files import Files, KernelRefused, one_name
from .log import Log
from .modules import Modules
from .region import Writing
from .sight import devices_of, look
from .survey import TRACING, survey
from .tool import Tools
from .trace import Trace

Value = dict[str, Any]

MOST_REPLY = 48 << 10
"""Bytes of a reply; a longer one is kept, and fetched by `rest` in pieces of so many."""
MOST_EVENTS = 40
MOST_LINES = 200
QUIET_STEP_S = 0.01
MOST_QUIET_S = 30.0


class KernelHost:
    """The kernel of this machine, to be used and looked at."""

    def __init__(self, root: str = "") -> None:
        self.files = Files(root)
        self.trace = Trace(self.files)
        self.log = Log(self.files)
        self.mappings = Mappings(self.files)
        self.tools = Tools(self.files)
        self._modules = Modules(self.files)
        self._long: tuple[int, bytes] = (0, b"")
        self._plain: dict[str, Callable[[Value], Value]] = {
            "survey": lambda request: self.survey(),
            "modules": self._load,
            "unload": self._modules.unload,
            "sight": self._sight,
            "map": self.mappings.map,
            "unmap": self.mappings.unmap,
            "read": self.mappings.read,
            "write": self.mappings.write,
            "fill": self.mappings.fill,
            "check": self.mappings.check,
            "trace": lambda request: self.trace.drain(MOST_EVENTS),
            "log": lambda request: self.log.drain(MOST_LINES),
            "quiet": self._quiet,
            "cxl": self._raw,
            "rest": self._rest,
        }
        self._writing: dict[str, Callable[[Files, Value, Writing], Value]] = {
            "region": region.make,
            "region_destroy": region.destroy,
            "region_bind": _bind_region,
            "region_unbind": _unbind_region,
            "create": dax.create,
            "delete": dax.delete,
            "claim": dax.claim,
            "resize": dax.resize,
            "bind": dax.bind,
            "unbind": dax.unbind,
            "online": dax.online,
            "destroy": dax.destroy,
            "revive": modules.revive,
        }

    def start(self) -> Value:
        """Load the drivers, listen to log and trace, look: the survey for `ready`, with what was loaded."""
        self.log.start()
        mount_tracefs(self.files)
        loaded = self._load({})
        return {**self.survey(), "modules": loaded}

    def survey(self) -> Value:
        """What this kernel offers (see `survey`); why there is no trace or log, where there is none."""
        mount_tracefs(self.files)
        self.trace.start()
        return {**survey(self.files), "trace_why": self.trace.why, "log_why": self.log.why}

    def handle(self, request: Value) -> Value:
        """What the reply holds, apart from id and ok. Errors: AskedWrongly, CannotRun, TimedOut."""
        what = str(request.get("what"))
        writing = Writing(self.files)
        try:
            if what in self._plain:
                found = self._plain[what](request)
            elif what in self._writing:
                found = self._writing[what](self.files, request, writing)
            else:
                known = ", ".join([*self._plain, *self._writing])
                raise AskedWrongly(f"what {what[:40]!r} is not known; there is {known}")
        except KernelRefused as error:
            refused = {"errno": error.name, "path": error.path, "wrote": error.wrote}
            return {"refused": refused, "steps": writing.steps}
        if what in self._writing:
            found.setdefault("steps", writing.steps)
        return self._cut(found)

    # ----

    def _load(self, request: Value) -> Value:
        found = self._modules.load(request)
        self.log.debug()
        self.trace.start()
        return found

    def _raw(self, request: Value) -> Value:
        self.log.expect(raw.WARNS)
        return raw.command(self.files, request)

    def _sight(self, request: Value) -> Value:
        """{"region"}: {"sight", "region_devices", "odd"}; "tools" where any is installed (see `tool`)."""
        name = one_name(request.get("region"), "region")
        sight, odd = look(self.files, name)
        found = {"sight": sight, "region_devices": devices_of(self.files, name), "odd": odd}
        tools = self.tools.look(name)
        return {**found, "tools": tools} if tools else found

    def _quiet(self, request: Value) -> Value:
        """{"timeout_s"}: wait until two looks brought nothing new in trace and log: {"quiet", "waited_s"}."""
        timeout = request.get("timeout_s", 1.0)
        if type(timeout) not in (int, float) or not 0 <= timeout <= MOST_QUIET_S:
            raise AskedWrongly(f"timeout_s {str(timeout)[:40]}; give 0 to {MOST_QUIET_S:g} seconds")
        return self.quiet(timeout)

    def quiet(self, timeout_s: float) -> Value:
        """See the request of that name."""
        began = time.monotonic()
        self.trace.start()
        self.log.start()
        idle = 0
        while True:
            idle = 0 if self.trace.turn() + self.log.turn() else idle + 1
            waited = time.monotonic() - began
            if idle >= 2 or waited >= timeout_s:
                return {"quiet": idle >= 2, "waited_s": round(waited, 4)}
            time.sleep(QUIET_STEP_S)

    def _cut(self, found: Value) -> Value:
        """A reply that is too long for a frame is kept whole, and its first piece given."""
        text = encode(found)
        if len(text) <= MOST_REPLY:
            return found
        self._long = (self._long[0] + 1, text)
        return self._rest({"token": self._long[0], "offset": 0})

    def _rest(self, request: Value) -> Value:
        """{"token", "offset"}: {"long": {"token", "length", "offset", "piece": text}} of a long reply's JSON."""
        token, text = self._long
        offset = request.get("offset")
        if request.get("token") != token or type(offset) is not int or not 0 <= offset < len(text):
            raise AskedWrongly(
                f"no long reply {str(request.get('token'))[:20]} at {str(offset)[:20]}; only the last is kept"
            )
        piece = text[offset : offset + MOST_REPLY // 2].decode("ascii", "replace")
        return {"long": {"token": token, "length": len(text), "offset": offset, "piece": piece}}


def _bind_region(files: Files, request: Value, writing: Writing) -> Value:
    """{"region"}: bind one that was made and unbound."""
    name = one_name(request.get("region"), "region")
    region.bind(files, name, writing)
    return region.describe(files, name, region.decoder_of(files, name))


def _unbind_region(files: Files, request: Value, writing: Writing) -> Value:
    """{"region"}: take it from its driver; it stays committed."""
    region.unbind(files, one_name(request.get("region"), "region"), writing)
    return {}


def mount_tracefs(files: Files) -> None:
    """Mount tracefs where the kernel has it and nobody did; what fails is seen by the trace not being there."""
    if files.root or not files.exists(TRACING) or files.exists(f"{TRACING}/trace_pipe"):
        return
    import ctypes

    try:
        ctypes.CDLL(None).mount(b"tracefs", TRACING.encode(), b"tracefs", 0, None)
    except (OSError, AttributeError) as error:
        raise CannotRun(f"tracefs cannot be mounted: {error}") from None
