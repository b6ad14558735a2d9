"""The verbs of a launched guest: one table of what each takes and gives; every argument is checked here, once.

Nothing is done here: `held` carries the verbs out. Sizes, offsets and addresses are bytes; a DPA counts from the
device's start, an offset from its region's base; ranges are [DPA, length].

A verb needs a guest that lives, unless it says `after_death`. Errors of a verb: AskedWrongly (an argument), Refused
(the device said no: no effect), OutcomeUnknown and its kinds; MachineGone once the guest has died.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from .. import asked
from ..bench import Span, parse_span
from ..errors import AskedWrongly

MAX_EXTENTS = 512
"""Extents in one request: what QEMU's device holds in all."""
MAX_DATA_BYTES = 1 << 16
"""Bytes that one read or write moves."""
MAX_ARGV = 256
MAX_ARGV_BYTES = 1 << 15
MAX_TIMEOUT_S = 600.0
ANSWER_TIMEOUT_S = 5.0
EXEC_TIMEOUT_S = 30.0

Value = dict[str, Any]
Check = Callable[[object, str], Any]


class Arg(NamedTuple):
    """An argument: its check (which gives the value to use), its default; `needed` ones have none."""

    check: Check
    default: Any = None
    needed: bool = False


class Verb(NamedTuple):
    """A verb: its arguments, what it gives, whether as a stream of items, whether also of a guest that has died."""

    args: Mapping[str, Arg]
    gives: str
    streams: bool = False
    after_death: bool = False


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value or len(value) > 200:
        raise AskedWrongly(f"{what} {asked.shown(value)}; give a short text")
    return value


def _flag(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise AskedWrongly(f"{what} {asked.shown(value)}; give true or false")
    return value


def _count(value: object, what: str) -> int:
    return asked.whole(value, what)


def _size(value: object, what: str) -> int:
    return asked.whole(value, what, least=1)


def _region(value: object, what: str) -> int:
    return asked.whole(value, what, most=0xFF)


def _seconds(value: object, what: str) -> float:
    return asked.seconds(value, what, most=MAX_TIMEOUT_S)


def _tag(value: object, what: str) -> str | None:
    return asked.tag(value)


def _spans(value: object, what: str) -> list[Span]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_EXTENTS:
        raise AskedWrongly(f"{what} {asked.shown(value)}; give a list of 1 to {MAX_EXTENTS}, like ['0+256M']")
    return [_span(one) for one in value]


def _span(value: object) -> Span:
    if isinstance(value, str):
        return parse_span(value)
    if isinstance(value, list) and len(value) in (2, 4):
        tag, sequence = value[2:] or (None, 0)
        return Span(
            asked.whole(value[0], "extent offset"),
            asked.whole(value[1], "extent length"),
            asked.tag(tag),
            asked.whole(sequence, "extent sequence", most=0xFFFF),
        )
    raise AskedWrongly(
        f"extent {asked.shown(value)}; write OFFSET+LENGTH, like '0+256M', or [offset, length], "
        "or [offset, length, tag or null, sequence]"
    )


def _length(value: object, what: str) -> int:
    return asked.whole(value, what, least=1, most=MAX_DATA_BYTES)


def _data(value: object, what: str) -> bytes:
    try:
        found = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        found = b""
    if not 0 < len(found) <= MAX_DATA_BYTES:
        raise AskedWrongly(f"{what} {asked.shown(value)}; give hex digits of 1 to {MAX_DATA_BYTES} bytes")
    return found


def _via(value: object, what: str) -> str:
    return asked.one_of(value, what, ("backend", "host"))


def _host(value: object, what: str) -> int:
    return asked.whole(value, what, most=0xFFFF)


def _manager(value: object, what: str) -> str:
    return asked.one_of(value, what, ("add", "release"))


def _payload(value: object, what: str) -> bytes:
    return b"" if value == "" else _data(value, what)


def _choice(value: object, what: str) -> str:
    return asked.one_of(value, what, ("accept", "refuse"))


def _params(value: object, what: str) -> Value:
    if not isinstance(value, dict) or {"kind", "device"} & set(value):
        raise AskedWrongly(f"{what} {asked.shown(value)}; give an object of the policy's parameters")
    return value


def _argv(value: object, what: str) -> list[str]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ARGV:
        raise AskedWrongly(f"{what} {asked.shown(value)}; give a list of 1 to {MAX_ARGV} words")
    if not all(isinstance(word, str) and "\0" not in word for word in value) or not value[0]:
        raise AskedWrongly(f"{what} {asked.shown(value)}; each is a text without a zero byte, the first not empty")
    if sum(len(word.encode("utf-8", "surrogateescape")) for word in value) > MAX_ARGV_BYTES:
        raise AskedWrongly(f"{what} is longer than {MAX_ARGV_BYTES} bytes; put it into a script in the guest")
    return value


_DEVICE = Arg(_text, "mem0")
_WAIT = Arg(_seconds, ANSWER_TIMEOUT_S)
_WHERE: Mapping[str, Arg] = {
    "extents": Arg(_spans),
    "size": Arg(_size),
    "at": Arg(_count),
    "device": _DEVICE,
    "tag": Arg(_tag),
    "via": Arg(_text),
    "host_id": Arg(_host, 0),
    "timeout_s": _WAIT,
}
_OF_HOST: Mapping[str, Arg] = {"device": _DEVICE, "host_id": Arg(_host, 0)}
_POLICY: Mapping[str, Arg] = {"kind": Arg(_text, needed=True), "device": _DEVICE, "params": Arg(_params, {})}

VERBS: Mapping[str, Verb] = {
    "info": Verb(
        {},
        '{"name", "state": "running"|"gone", "death": null|{"kind", "text"}, "protocol", "run_dir", "since", "seed", '
        '"topology", "qemu": {"version", "origin", "accel", "pid"}, "kernel", "devices": [as the header of the '
        'history has them], "policy": {device: {"add", "release", "break" where one is set}}, "clients", '
        '"operations"}. `death.kind` is "device", "outside", "panic" or "silent"; the agent is asked for a sign of '
        "life",
        after_death=True,
    ),
    "add": Verb(
        {**_WHERE, "region": Arg(_region, 0)},
        'extents, or size (with `at`, else first fit): {"outcome": "accepted"|"partial"|"refused"|"unanswered", '
        '"device", "region", "extents": [[offset, length]], "accepted": ranges, "refused": ranges, '
        '"witnesses": {"host": ranges|null, "block": [[DPA, length, state]]}}; what is in neither is still pending',
    ),
    "release": Verb(
        {
            **_WHERE,
            "region": Arg(_region),
            "all": Arg(_flag, False),
            "forced": Arg(_flag, False),
            "sanitize": Arg(_flag, False),
        },
        "extents, or size (with `at`, else an accepted extent of that size, else the first large enough), or all "
        '(of one region, or without a region of the device): {"outcome": "released"|"partial"|"declined"|"unanswered"|'
        '"nothing", "device", "released": ranges, "kept": ranges, "requests": [{"region", "extents", "outcome", '
        '"released", "kept", "witnesses"}]}',
    ),
    "answer": Verb(
        {"choice": Arg(_choice, needed=True), "extents": Arg(_spans), "device": _DEVICE, "timeout_s": _WAIT},
        "the host answers its oldest offer by hand, one that its policy left unanswered; `extents` (offsets in "
        'its region): accept only these. As `add`, and "waiting": whether another offer waits. AskedWrongly, and '
        "nothing was sent, where none waits, or host U may still answer by itself",
    ),
    "policy": Verb(_POLICY, 'how host U answers offers from now on: {"device", "add": {"kind", ...}, "release"}'),
    "release_policy": Verb(_POLICY, "how it responds to release requests: as `policy`"),
    "break_rule": Verb(
        {"clause": Arg(_text), "device": _DEVICE},
        'the clause that host U breaks on purpose from now on, none where it is left out: as `policy`, and "break"',
    ),
    "show": Verb(
        {"device": Arg(_text)},
        'without a device, all: {"source": "witness"|"history", "devices": [{"device", "regions": [{"region", "base", '
        '"length", "block_size", "runs": [{"dpa", "length", "state": "free"|"pending"|"accepted", "sampled"}]}], '
        '"list": ranges by 4801h|null, "policy": {"add", "release"}}]}. Below a switch with a fabric manager also '
        '"fm_list": ranges by 5603h, or null and "fm_error": text. Runs cover the region; a `sampled` one was not '
        "asked block by block",
        after_death=True,
    ),
    "read": Verb(
        {
            "dpa": Arg(_count, needed=True),
            "length": Arg(_length, needed=True),
            "via": Arg(_via, "backend"),
            "device": _DEVICE,
        },
        'through the memory backend, or by the host through its window: {"data": hex}',
    ),
    "write": Verb(
        {
            "dpa": Arg(_count, needed=True),
            "data": Arg(_data, needed=True),
            "via": Arg(_via, "backend"),
            "device": _DEVICE,
        },
        '{"written": bytes}',
    ),
    "events": Verb(
        {"since": Arg(_count, 0), "follow": Arg(_flag, False)},
        "the lines of the history from n = since on, each an object",
        streams=True,
        after_death=True,
    ),
    "console": Verb(
        {"follow": Arg(_flag, False)},
        "the guest's console from its begin, in pieces of text, control characters out",
        streams=True,
        after_death=True,
    ),
    "exec": Verb(
        {"argv": Arg(_argv, needed=True), "timeout_s": Arg(_seconds, EXEC_TIMEOUT_S)},
        'a command in the guest, as root: {"stdout", "stderr", "exit": 0..255, or -n where signal n ended it, "cut": '
        'bytes of output that were too many, "timed_out": it was killed}. Bytes that are no UTF-8 are surrogates '
        '(encode("utf-8", "surrogateescape") gives them back)',
    ),
    "reset": Verb({}, 'reset the guest, back when its new agent is ready: {"kernel"}'),
    "check": Verb(
        {},
        'what the rules say of the history so far: {"history", "verdict": as `Verdict.as_data`, "text": [lines]}',
        after_death=True,
    ),
    "fm_info": Verb(
        {},
        "what the fabric manager reads of the switch and of the devices below it (0001h, 5100h, 5101h, 5600h): "
        '{"switch": {"payload_bytes", "identify", "device"}, "ports": [{"port", "configuration", "connected", "link", '
        '"device": name|null, "state"}], "devices": [{"device", "port", "identify", "info", "selection", "removal"}]}. '
        "CannotRun where the guest has none: this and all that follow need the topology switch and QEMU 11.1",
    ),
    "fm_regions": Verb(
        _OF_HOST,
        'Get Host DC Region Configuration, 5601h: {"device", "host_id", "regions": [{"region", "base", "length", '
        '"decode_length", "block_size", "attributes", "sanitize"}], "supported_extents", "available_extents", '
        '"supported_tags", "available_tags"}',
    ),
    "fm_extents": Verb(
        {**_OF_HOST, "page": Arg(_size)},
        'Get DC Region Extent Lists, 5603h, `page` extents a question: {"device", "host_id", "extents": [{"dpa", '
        '"length", "tag", "sequence"}]}',
    ),
    "fm_raw": Verb(
        {"f": Arg(_manager, needed=True), "payload": Arg(_payload, needed=True), "device": _DEVICE},
        "these bytes as the payload of 5604h (add) or 5605h (release), sense or nonsense; what the device makes of "
        'them is not awaited: {"device", "opcode", "sent": hex, "rc", "code", "by": "device"|"switch", "answer": hex}',
    ),
    "set_region": Verb(
        {
            "region": Arg(_region, needed=True),
            "block_size": Arg(_count, needed=True),
            "sanitize": Arg(_flag, False),
            "device": _DEVICE,
        },
        'Set DC Region Configuration, 5602h: {"device", "region", "block_size", "sanitize"}',
    ),
    "stop": Verb({}, 'end the guest and its supervisor in order: {"run_dir"}', after_death=True),
}


def checked(verb: str, args: Mapping[str, object]) -> Value:
    """The arguments of a verb, checked, with defaults. Errors: AskedWrongly (a verb or argument that is not known)."""
    known = VERBS.get(verb)
    if known is None:
        raise AskedWrongly(f"verb {asked.shown(verb)}; there is {', '.join(VERBS)}, cancel")
    if unknown := next(iter(set(args) - set(known.args)), None):
        raise AskedWrongly(f"{verb} has no {asked.shown(unknown)}; it takes {_or_nothing(known.args)}")
    found: Value = {}
    for name, arg in known.args.items():
        value = args.get(name)
        if value is None and arg.needed:
            raise AskedWrongly(f"{verb} needs {name}; it takes {_or_nothing(known.args)}")
        found[name] = arg.default if value is None else arg.check(value, name)
    if "size" in found:
        _one_way(verb, found)
    return found


def _one_way(verb: str, found: Value) -> None:
    """Capacity is named in one way. Errors: AskedWrongly."""
    ways = [name for name in ("extents", "size", "all") if found.get(name)]
    if len(ways) != 1:
        given = " and ".join(ways) or "none of them"
        allowed = "extents, size or all" if "all" in found else "extents or size"
        raise AskedWrongly(f"{verb} takes one of {allowed}; given: {given}")
    if found["at"] is not None and ways != ["size"]:
        raise AskedWrongly(f"{verb}: `at` goes with size; extents have their own offsets")


def _or_nothing(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"
