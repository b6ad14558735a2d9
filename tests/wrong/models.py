"""Deliberately wrong models: the reference with one thing forgotten. A right device's history must then turn red.

They show that the verdict depends on the model at every step: a judge that says pass whatever the model holds would let
them through.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

from dcdbackend.model import whole as reference
from dcdbackend.model.decide import apply_answer
from dcdbackend.model.state import Completed, Next, State, Violation

Step = Callable[[State, Completed], Next | Violation]


class WrongModel(NamedTuple):
    """`clause`: what the right device is then convicted of, by `script`."""

    clause: str
    script: str
    model: Any


def model(f: str, after: Callable[[State, Completed, Next], State]) -> Any:
    """The reference, with another state after each `f` that succeeds."""

    def step(state: State, op: Completed) -> Next | Violation:
        found = reference.step(state, op)
        if isinstance(found, Violation) or op.f != f or op.type != "ok":
            return found
        return found._replace(state=after(state, op, found))

    made = SimpleNamespace(**{name: getattr(reference, name) for name in reference.__all__})
    made.step = step
    return made


def _takes_whole(state: State, op: Completed, found: Next) -> State:
    whole = [(extent.start, extent.length) for extent in state.chains[0].extents]
    return apply_answer(state, 0, whole)


MODELS: tuple[WrongModel, ...] = (
    WrongModel(
        "DEV-6.taken", "add 0+4M; events; accept; clear; force 0+2M; block 0", model("force", lambda s, _, __: s)
    ),
    WrongModel("DEV-5.pending", "add 0+4M; force 0+2M; block 0", model("force", lambda state, op, _: state)),
    WrongModel("DEV-4.only", "set 4M; events", model("set_region", lambda state, op, _: state)),
    WrongModel("DEV-6.taken", "add 0+4M; events; accept 0+2M; block 2M", model("answer", _takes_whole)),
    WrongModel("DEV-5.pending", "add 0+4M; events; accept; block 0", model("answer", lambda state, op, _: state)),
    WrongModel(
        "DEV-6.taken",
        "add 0+4M; events; accept; clear; release; block 0",
        model("give_back", lambda state, op, _: state),
    ),
    WrongModel("DEV-5.free", "add 0+4M; block 0", model("add", lambda state, op, _: state)),
    WrongModel("DEV-4.only", "add 0+4M; events", model("add", lambda state, op, found: found.state._replace(log=()))),
    WrongModel("DEV-4.whole", "add 0+4M; events; clear; events", model("clear", lambda state, op, _: state)),
    WrongModel(
        "DEV-17.device-reads",
        "add 0+4M; events; accept; store 0 01; store 0 02; load 0+1",
        model("store", lambda state, op, found: state if len(state.memory) else found.state),
    ),
    WrongModel(
        "DEV-10.generation-stays",
        "list; add 0+4M; events; accept; list",
        model("answer", lambda state, op, found: found.state._replace(notes=state.notes)),
    ),
)
