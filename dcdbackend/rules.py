"""The rules, clause by clause: what can be demanded of a device, a host, a manager, and who can see it.

A rule (DEV-8) often makes several demands; each one that can be observed by itself is a clause with an id of
its own (DEV-8.16h), and verdicts, tests and deliberately wrong models name the clause. The table says nothing
of how a clause is judged: that is `model/`. It is not the specification either: `source` says where a clause
comes from.

`kind`: `must` is demanded, `may` is permitted (a stricter judge would be wrong). `witnesses`: the operations
of the history that can show it; none means that nothing here can see it: it is listed and never green.
"""

from __future__ import annotations

from typing import NamedTuple


class Clause(NamedTuple):
    """One demand. `generations` holds the host generations that it is for; () means all."""

    id: str
    rule: str
    kind: str
    subject: str
    text: str
    source: str
    generations: tuple[str, ...]
    witnesses: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.id} ({self.kind}, {self.subject}): {self.text} [{self.source}]"


RULES: dict[str, str] = {
    "DEV-1": "Regions",
    "DEV-2": "Extents",
    "DEV-3": "What may be offered",
    "DEV-4": "An offer is a chain of records",
    "DEV-5": "Offered capacity is pending",
    "DEV-6": "Answers (4802h)",
    "DEV-7": "Release (4803h)",
    "DEV-8": "Return codes",
    "DEV-9": "The device answers and goes on",
    "DEV-10": "Extent list",
    "DEV-11": "A release request is only a request",
    "DEV-12": "Forced release",
    "DEV-13": "Selection and removal policies",
    "DEV-14": "Sanitize on release",
    "DEV-15": "Sharing",
    "DEV-16": "Event log",
    "DEV-17": "Data",
    "DEV-18": "Region configuration",
    "DEV-19": "Counts of extents and tags",
    "DEV-20": "Host ids",
    "DEV-21": "References to tags",
    "DEV-22": "Reset of the host",
    "WITNESS": "Independent witnesses agree",
    "KERNEL": "Nothing wrong in itself",
}

CXL = "CXL r3.1"
_WITNESSES: dict[str, tuple[str, ...]] = {
    "-": (),
    "lists": ("block", "extents", "fm_extents"),
    "pages": ("extents", "fm_extents"),
    "sends": ("answer", "give_back"),
    "asks": ("add", "release", "force"),
    "references": ("add_reference", "remove_reference"),
}

# id | kind and subject | witnesses | section | text (an indented line goes on with the text)
_TABLE = """\
DEV-1.count | must device | header | 9.13.3 | there are 1 to 8 regions
DEV-1.order | must device | header | 9.13.3 | regions lie in increasing DPA order, none overlaps another
DEV-1.block | must device | header | 8.2.9.9.9.1 | a block size is a power of two and a multiple of 64
DEV-1.multiple | must device | header | 8.2.9.9.9.1 | base and length are multiples of the block size
DEV-1.base | must device | header | 8.2.9.9.9.1 | a region's base lies on 256 MiB
DEV-1.decode | must device | header | 8.2.9.9.9.1 | a region's length is not above its decode length
DEV-2.nonempty | must device | add release events sends | 7.6.7.6.5 |
    an extent of no length is neither offered nor taken
DEV-2.aligned | must device | add release events | 7.6.7.6.5 |
    an extent lies on its region's blocks; what does not is neither offered nor asked back
DEV-2.inside | must device | add release events | 7.6.7.6.5 |
    an extent lies inside one region; what does not is neither offered nor asked back
DEV-2.wrap | must device | add release events sends | 7.6.7.6.5 |
    start + length past 2^64 is refused; it is never taken for a small address
DEV-3.accepted | must device | add events | 7.6.7.6.5 | what the host holds is not offered to it again
DEV-3.pending | must device | add events | 7.6.7.6.5 | what is pending is not offered again
DEV-3.self | must device | add events | 7.6.7.6.5 | the extents of one offer do not overlap each other
DEV-4.whole | must device | events | 8.2.9.2.1.6 |
    each extent of a chain reaches the host as one record; none is lost
DEV-4.only | must device | events | 8.2.9.2.1.6 | no record comes that nobody caused
DEV-4.format | must device | events | 8.2.9.2.1.6 |
    every record of log 4 is a dynamic capacity record of 128 bytes that parses
DEV-4.severity | must device | events | 8.2.9.2.1.6 | a record's severity is informational, 00b
DEV-4.type | must device | events | 8.2.9.2.1.6 |
    a record's type is what was asked: add 0, release 1, forced release 2; 4 and 5 never reach a host
DEV-4.order | must device | events | 8.2.9.2.1.6 | the records of a chain come in the order of the request
DEV-4.more | must device | events | 8.2.9.2.1.6 | More is set on every record of a chain but the last
DEV-4.extent | must device | events | 8.2.9.2.1.6 |
    a record carries start and length of the extent that was asked
DEV-4.tag | must device | events | 8.2.9.2.1.6 | a record carries the tag that was asked
DEV-4.sequence | must device | events | 8.2.9.2.1.6 |
    a record carries the shared sequence number that was asked
DEV-4.region | must device | events | 8.2.9.2.1.6 | the updated region is filled in for type 3 only
DEV-4.one-chain | must device | events | 8.2.9.2.1.6 | all extents of one tag lie in one chain
DEV-4.validity | may device | events | 8.2.9.2.1.6 | a record may say that its two counts do not hold
DEV-5.pending | must device | block | 9.13.3 | offered capacity stays pending until the host answers
DEV-5.list | must device | pages | 8.2.9.9.9.2 | pending capacity is in no extent list
DEV-5.data | must device | bytes | 9.13.3 | a store to pending capacity keeps nothing
DEV-5.free | must device | lists | 9.13.3 | capacity that was not offered is neither pending nor accepted
DEV-6.inside | must host | answer | 8.2.9.9.9.3 | each range of an answer lies inside one offered extent
DEV-6.oldest | must host | answer | 8.2.9.9.9.3 | an answer settles the oldest pending chain, not a later one
DEV-6.order | must host | answer | 8.2.9.9.9.3 | the ranges of an answer come in the order offered
DEV-6.accepted | must host | answer | 8.2.9.9.9.3 | an answer names nothing that the host holds already
DEV-6.disjoint | must host | answer | 8.2.9.9.9.3 | the ranges of an answer do not overlap each other
DEV-6.aligned | must host | answer | 8.2.9.9.9.3 | the ranges of an answer are whole blocks, at least one
DEV-6.part | may host | answer | 8.2.9.9.9.3 | a host may take a part of an offered extent
DEV-6.none | may host | answer | 8.2.9.9.9.3 | a host may refuse a chain with an answer of no ranges
DEV-6.answered | may host | answer | 8.2.9.9.9.3 |
    an offer is answered; no rule says when, so one that is still pending at the end is not known to be
DEV-6.taken | must device | lists | 8.2.9.9.9.3 | what the answer names is accepted from then on
DEV-6.left | must device | lists | 8.2.9.9.9.3 | what the answer leaves out goes back to free
DEV-6.more | must device | answer block | 8.2.9.9.9.3 |
    while the answer's own More flag is set the chain stays open
DEV-7.held | must host | give_back | 8.2.9.9.9.4 | a host gives back only what it holds
DEV-7.pending | must host | give_back | 8.2.9.9.9.4 | a host never gives back what is pending: it answers
DEV-7.disjoint | must host | give_back | 8.2.9.9.9.4 | the ranges of a release do not overlap each other
DEV-7.aligned | must host | give_back | 8.2.9.9.9.4 | the ranges of a release are whole blocks, at least one
DEV-7.some | must host | give_back | 8.2.9.9.9.4 | a release names at least one range
DEV-7.freed | must device | lists | 8.2.9.9.9.4 | what the host gave back is free from then on
DEV-7.rest | must device | lists | 8.2.9.9.9.4 |
    a release takes no more than it names: the rest of a split extent stays
DEV-7.part | must device | give_back | 8.2.9.9.9.4 | a part of an accepted extent may be given back
DEV-7.span | must device | give_back | 8.2.9.9.9.4 | one range may span accepted extents that adjoin
DEV-8.16h | must device | clear sends | 8.2.9.9.9 | a payload shorter than its count gets 16h
DEV-8.02h-none | must device | give_back | 8.2.9.9.9.4 | a release of no ranges gets 02h
DEV-8.02h-start | must device | pages list_tags | 8.2.9.9.9.2 | a start index past the end of the list gets 02h
DEV-8.02h-host | must device | asks fm_extents | 7.6.7.6.5 |
    a host that the device does not serve is refused, with 02h
DEV-8.02h-policy | must device | asks | 7.6.7.6.5 |
    a policy that is not advertised is refused, with 02h
DEV-8.02h-region | must device | add set_region | 7.6.7.6.5 |
    a request for a region that the device does not have is refused, with 02h or 0Fh
DEV-8.1Eh-block | must device | sends | 8.2.9.9.9.3 | a range off the region's blocks gets 1Eh
DEV-8.1Eh-overlap | must device | release force sends | 8.2.9.9.9.3 |
    ranges of one command that overlap each other get 1Eh
DEV-8.1Eh-add | must device | add | 7.6.7.6.5 | an add over accepted or pending capacity gets 1Eh
DEV-8.0Fh-outside | must device | sends | 8.2.9.9.9.3 | a range that is not inside one region gets 0Fh
DEV-8.0Fh-chain | must device | answer | 8.2.9.9.9.3 |
    an answer that names what the oldest chain does not offer gets 0Fh
DEV-8.0Fh-accepted | must device | answer | 8.2.9.9.9.3 | an answer that names accepted capacity gets 0Fh
DEV-8.0Fh-held | must device | give_back release force | 8.2.9.9.9.4 | a release of what is not held gets 0Fh
DEV-8.0Fh-pending | must device | release | 7.6.7.6.6 |
    an unforced release request over pending capacity gets 0Fh
DEV-8.1Dh | must device | add sends | 8.2.9.9.9.3 | more extents than the device can track get 1Dh
DEV-8.1Dh-room | must device | add | 7.6.7.6.5 |
    a request for more than the region has free (contiguous: in one piece) gets 1Dh
DEV-8.03h-region | must device | set_region | 7.6.7.6.3 |
    setting up a region in use, or a sanitize bit that cannot change, gets 03h
DEV-8.03h-opcode | must device | references list_tags | 8.2.9 | an opcode that the device does not know gets 03h
DEV-8.any | may device | asks clear sends set_region | 8.2.9.9.9 |
    when several refusals apply, the device may give any of them
DEV-8.served | must device | asks events clear pages sends set_region references list_tags | 8.2.9.9.9 |
    a command that breaks no rule succeeds
DEV-8.unchanged | must device | lists bytes | 8.2.9.9.9 | a command that fails changes nothing
DEV-9.alive | must device | gone | 8.2.8.4.5 | whatever is sent, the device lives on
DEV-9.answers | must device | events clear pages asks sends set_region references list_tags | 8.2.8.4.5 |
    whatever is sent, the device answers with a return code
DEV-10.extents | must device | pages | 8.2.9.9.9.2 |
    the list holds the accepted extents, all of them and nothing else
DEV-10.count | must device | pages | 8.2.9.9.9.2 |
    a page holds no more extents than asked, and what there is up to that
DEV-10.payload | must device | extents events | 8.2.9.9.9.2 | a page holds no more than its payload can
DEV-10.total | must device | pages | 8.2.9.9.9.2 | the total counts all accepted extents
DEV-10.end | must device | pages | 8.2.9.9.9.2 | a start index equal to the total gives an empty page
DEV-10.tag | must device | pages | 8.2.9.9.9.2 | the list shows each extent's tag as it was offered
DEV-10.sequence | must device | pages | 8.2.9.9.9.2 | the list shows each extent's sequence as it was offered
DEV-10.generation-changes | must device | pages | 8.2.9.9.9.2 |
    the generation number changes when the list does
DEV-10.generation-stays | must device | pages | 8.2.9.9.9.2 | the generation number stays while the list does
DEV-10.pages | must device | pages | 8.2.9.9.9.2 | pages of one generation fit together: no extent twice
DEV-10.any-order | may device | pages | 8.2.9.9.9.2 | the list may come in any order
DEV-11.request | must device | lists | 8.2.9.2.1.6 | a release request alone changes no state
DEV-11.ignored | may host | - | 8.2.9.2.1.6 | a host may leave a release request unheeded
DEV-11.again | may manager | release | 8.2.9.2.1.6 | a manager may ask again for what was not given back
DEV-12.taken | must device | force release lists | 7.6.7.6.6 |
    a forced release takes effect at once, whatever the host does
DEV-12.pending | must device | force release lists | 7.6.7.6.6 |
    a forced release withdraws pending capacity too
DEV-12.answered | may device | answer | 7.6.7.6.6 |
    an offer that was withdrawn whole may wait for its answer, or not: recorded, never judged
DEV-12.told | must device | events | 8.2.9.2.1.6 | the host hears of a forced release as a record of type 2
DEV-13.advertised | must device | asks | 7.6.7.6.1 |
    exactly the policies that 5600h advertises are served
DEV-13.free | must device | events | 7.6.7.6.5 |
    policy free: the device chooses extents that add up to the length
DEV-13.contiguous | must device | events | 7.6.7.6.5 |
    policy contiguous: the device chooses one range of the length
DEV-13.prescriptive | must device | events | 7.6.7.6.5 |
    policy prescriptive: the device offers exactly what was named
DEV-13.shared | must device | add events | 7.6.7.6.5 |
    policy enable shared access: another host's tagged allocation is offered
DEV-13.removal | must device | release force events | 7.6.7.6.6 | removal goes by tag or by named extents, as asked
DEV-14.cleared | must device | load bytes | 7.6.7.6.3 |
    where region or request asks to sanitize, what is offered again reads as cleared
DEV-14.kept | may device | load bytes | 7.6.7.6.3 |
    where nobody asks to sanitize, what is offered again may hold anything
DEV-15.one-tag | must device | add events | 8.2.9.2.1.6 |
    in sharable regions one tag names one allocation in every host
DEV-15.exclusive | must device | add events | 9.13.3 |
    in a region that is not sharable, what one host holds or is offered is offered to no other
DEV-15.again | may device | add | - |
    another host's allocation, named extent by extent, may be offered or refused: recorded, never judged
DEV-15.sequence | must device | events | 8.2.9.2.1.6 | the extents of a shared allocation are numbered densely
DEV-16.nonzero | must device | events | 8.2.9.2.2 | an event handle is not zero
DEV-16.unique | must device | events | 8.2.9.2.2 | the handles of the records held are all different
DEV-16.stable | must device | events | 8.2.9.2.2 |
    a record keeps its handle and its content until it is cleared
DEV-16.oldest | must device | events | 8.2.9.2.2 | records come oldest first
DEV-16.cleared | must device | events | 8.2.9.2.3 | a cleared record does not come again
DEV-16.clear-order | must device | clear | 8.2.9.2.3 |
    0101h that does not name the oldest records in order gets 0Eh, and clears nothing
DEV-16.clear-unknown | must device | clear | 8.2.9.2.3 |
    0101h that names a handle which no record has gets 0Eh
DEV-16.clear-all | must device | clear events | 8.2.9.2.3 |
    Clear All empties the log after an overflow, and gets 02h else
DEV-16.overflow | must device | events | 8.2.9.2.2 |
    the overflow flag and count say what was lost since the last clear
DEV-16.remain | must device | events | 8.2.9.2.2 | 0100h says whether records remain beyond those returned
DEV-16.status | must device | status | 8.2.8.3.1 | event status bit 4 says whether log 4 holds anything
DEV-16.interrupt | must device | - | 8.2.9.2.4 | an interrupt comes when the log turns from empty to not empty
DEV-17.device-reads | must device | load | 9.13.3 | the host reads back what was stored to accepted capacity
DEV-17.backend-reads | must device | bytes | 9.13.3 | the backend holds what was stored to accepted capacity
DEV-17.dropped | must device | bytes | 9.13.3 | a store to capacity that is not accepted keeps nothing
DEV-17.hidden | must device | load | 9.13.3 |
    what is read from capacity that is not accepted is not the backend's
DEV-17.any-value | may device | load | 9.13.3 |
    what is read from capacity that is not accepted may be anything else
DEV-18.empty | must device | set_region | 7.6.7.6.3 | a region is set up anew only while it holds nothing
DEV-18.same | must device | set_region | 7.6.7.6.3 |
    setting the block size that it has succeeds, while the region holds nothing
DEV-18.used | may device | set_region | - |
    the same while it holds something may succeed or get 03h: recorded, never judged
DEV-18.block | must device | set_region | 7.6.7.6.3 |
    a block size that no region can have (DEV-1) is refused, with 02h or 03h
DEV-18.told | must device | events | 8.2.9.2.1.6 | a record of type 3 is sent on a change, and only then
DEV-19.extents | must device | events | 8.2.9.9.9.1 |
    the available extents are those supported less accepted and pending
DEV-19.tags | must device | add events | 8.2.9.9.9.1 |
    the available tags are those supported less those in use, and no more are offered
DEV-20.host | must device | events | 8.2.9.2.1.6 | a record carries the id of the host addressed
DEV-21.references | must device | references | 7.6.7.6.7 |
    5606h takes a reference to a tag in use, 5607h lets go one that is held; others get 02h
DEV-21.kept | must device | add events | 7.6.7.6.7 |
    the capacity of a referenced tag is given to no other tag, even while no host has it
DEV-21.again | may device | add add_reference | - |
    what a reference keeps may be offered again by its extents, and be referenced twice: recorded, never judged
DEV-21.list | must device | list_tags | 7.6.7.6.9 |
    5608h lists the tags in use, who has them and whether they are referenced
DEV-22.recorded | may device | reset | - |
    what a reset of the host does to offers, extents and log is recorded, never judged
WITNESS.agree | must witness | - | - | the guest's own judgement of a step and the controller's are the same
WITNESS.lists | must witness | lists | - |
    the device's list by 4801h, its list by 5603h and the block states say the same of what is accepted
WITNESS.tools | must witness | sysfs | - |
    `cxl list` and `daxctl list`, where they are installed, show what sysfs shows of regions and DAX devices
KERNEL.alarm | must host | log | - |
    the kernel's log has no WARN, BUG, Oops, lockdep, KASAN, hung task, RCU stall or panic
"""


def read_table(table: str) -> dict[str, Clause]:
    """Clauses from their textual form: `id | kind and subject | witnesses | section | text`, indented lines go on."""
    found: dict[str, Clause] = {}
    for line in table.replace("\n    ", " ").splitlines():
        name, who, seen, section, text = [cell.strip() for cell in line.split("|")]
        kind, subject = who.split()
        witnesses = tuple([f for word in seen.split() for f in _WITNESSES.get(word, (word,))])
        source = "dcdbackend" if section == "-" else f"{CXL} {section}"
        found[name] = Clause(name, name.partition(".")[0], kind, subject, text, source, (), witnesses)
    return found


CLAUSES: dict[str, Clause] = read_table(_TABLE)

NOT_JUDGED: dict[str, str] = {
    "DEV-11.ignored": "a host that does not answer a request does what it may: there is no such thing as the breach",
    "DEV-16.interrupt": "the agent polls, and takes no interrupt; a kernel under test does not say what woke it",
    "DEV-22.recorded": "no clause of the specification is cited for it: the reset is in the history, and is not judged",
}
"""Clauses that no verdict ever counts as held or broken, and why."""


def of_rule(rule: str) -> tuple[Clause, ...]:
    """The clauses of a rule such as `DEV-8`, or the one clause `DEV-8.16h`; () if there is none."""
    return tuple([clause for clause in CLAUSES.values() if rule in (clause.rule, clause.id)])
