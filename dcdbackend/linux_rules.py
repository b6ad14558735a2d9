"""The Linux rules, clause by clause: what one generation of the kernel does with a Dynamic Capacity Device.

The same kind of table as `rules.py`, whose reader reads it; apart, because these rules flip between generations while
the device's stay. Nothing here says how a clause is judged: that is `model/sparse_dax`, `model/tagged`,
`model/policy_drivers` and `model/observe`. Generation C is a proposal, and `WHAT-IF` holds what is asked for and
nobody has: no kernel is judged by these, only simulated hosts. The known departures of the code from its own
documentation (Q) are in `model/quirks.py`.

Where the table says `B, 17/31`, the clause was read in that message of the v11 series (2026-06-25); `A` is the sparse
DAX series as of v9 (2025-04-13). Two generations in one cell mean that the others behave otherwise.
"""

from __future__ import annotations

from .rules import CLAUSES as DEVICE_CLAUSES
from .rules import CXL, Clause, read_table

SPARSE = ("A",)
TAGGED = ("B-rfc", "v10", "v11", "draft")
POLICY = ("C",)
GROUPS: dict[str, tuple[str, ...]] = {
    "L": (*SPARSE, *TAGGED, *POLICY),
    "C": POLICY,
    "by-uuid": ("v10", "v11", "draft"),
    "A-B": (*SPARSE, *TAGGED),
    "B-C": (*TAGGED, *POLICY),
    "A-C": (*SPARSE, *TAGGED, *POLICY),
    "A": SPARSE,
    "B": TAGGED,
    "by-size": ("A", "B-rfc"),
    "upto-v10": ("B-rfc", "v10"),
    "from-v10": ("v10", "v11", "draft"),
    "from-v11": ("v11", "draft"),
    "upto-v11": ("B-rfc", "v10", "v11"),
    "draft": ("draft",),
}
WHAT_IF = "WHAT-IF"
"""The rule of what-if switches: a clause for each."""
_SERIES = "Linux DCD series"
_SEEDS = {"000": "the proposal of a driver per policy", "001": "the message on region drivers of 2026-01-22"}
_SEEDS |= {"002": "the message on tagged DAX devices of 2026-05-01", "003": "the cover letter of 2024-08-16"}
_SOURCES = {
    "L": "every version",
    "A": "v9",
    "by-size": "v9",
    "B": "v11",
    "upto-v10": "v10",
    "from-v10": "v10 and v11",
    "from-v11": "v11",
    "upto-v11": "v11",
    "draft": "a draft after v11",
    "B-rfc": "RFC of 2026-04",
}

RULES: dict[str, str] = {
    "L1": "Answer first, then clear",
    "L2": "Which records are heeded",
    "L3": "Regions in a partition",
    "L4": "More on a release",
    "L5": "Forced release and unknown types",
    "A1": "One DC partition",
    "A2": "No region",
    "A3": "A chain is answered together",
    "A4": "What is refused, in order",
    "A5": "Accepted again",
    "A6": "What the answer leaves out",
    "A7": "The answer is a set",
    "A8": "One extent, one region extent",
    "A9": "Existing extents",
    "A10": "Release with no region",
    "A11": "Release",
    "A14": "DAX devices",
    "A15": "Region destroyed, driver unloaded",
    "A16": "Caches are invalidated first",
    "A17": "Scan by the DAX driver",
    "B1": "Partition and switch",
    "B2": "Chains",
    "B3": "The time limit of a chain",
    "B4": "The length limit of a chain",
    "B5": "The close of a chain",
    "B6": "Group gate: tag live",
    "B7": "Group gate: shared sequence",
    "B8": "Group gate: one partition",
    "B9": "Group gate: alignment",
    "B10": "Extent gate: partition",
    "B11": "Extent gate: sharing",
    "B12": "Extent gate: region",
    "B13": "Extent gate: first scan",
    "B14": "Extent gate: decoder",
    "B15": "Extent gate: overlap",
    "B16": "Order in a group",
    "B17": "A group appears whole",
    "B18": "No contiguity",
    "B19": "Release with no region",
    "B20": "Which group a release names",
    "B21": "Release: caches",
    "B22": "Release: in use",
    "B23": "Release: the whole group",
    "B25": "Recovery: reading the list",
    "B26": "Recovery: what becomes of the extents",
    "B27": "Claim by uuid",
    "B28": "Claim: errors",
    "B29": "Size and creation",
    "B30": "One allocation, one device",
    "B31": "Available size",
    "B32": "Unbinding the region",
    "B33": "Unbinding: caches",
    "C1": "A driver per policy",
    "C2": "Sets, and sysram",
    "C3": "Untagged extents as memory",
    "C4": "Tagged or untagged",
    "C5": "devdax",
    "C6": "virtio",
    "C7": "No tag, no service",
    "C8": "Which driver a mode may have",
    "C9": "The auto-decoder path",
    WHAT_IF: "Designs that are asked for",
}

# id | kind and subject | witnesses | generations, source | text (an indented line goes on with the text)
_TABLE = """\
L1.before-clear | must host | answer give_back clear log | L |
    answers and releases go out before 0101h clears the records that caused them
L1.clears | must host | clear log | L | every record that was read is cleared, those left unheeded too
L1.until-empty | must host | events | L | the log is read until it returns none
L1.only | must host | answer give_back log | L | a host sends 4802h and 4803h only where a rule asks for it
L2.foreign | must host | answer clear | L | a record with another UUID is cleared unheeded
L2.kinds | must host | answer give_back log | L | types 3 to 5 are an error; nothing is sent
L2.unread | must host | answer | L | host id and counts of a record do not matter
L3.start | must host | answer sysfs | L | an extent belongs to the region at its start
L3.several | may host | sysfs | L | several regions may lie in one partition
L4.alone | must host | give_back log | A | More on a release is ignored: each record stands alone
L4.ignored | must host | give_back log | upto-v11 | More on a release is ignored: each record stands alone
L4.chain | must host | give_back log | draft | releases are staged until More is clear
L5.forced | must host | give_back extents log | L | a forced release is ignored: nothing is sent, all is kept
L5.unknown | must host | answer give_back log | L | an unknown type is an error; nothing is sent
A1.first | must host | answer | A | one DC partition is used, the first
A1.mode | must host | sysfs | A | its mode is dynamic_ram_a (before v9: dc0 and so on)
A2.region | must host | answer extents log | A | with no region every offered extent is refused
A2.driver | may host | answer sysfs | A | a region is enough: the DAX driver need not be there
A3.more | must host | answer extents log | A | nothing of a chain is answered before More is clear
A3.together | must host | answer extents | A | what a chain brought is answered together
A3.bound | may host | answer | A | a chain may wait for ever and be of any length
A4.sequence | must host | answer extents log | A | an extent with a shared sequence is refused
A4.tag | must host | answer extents log | A | an extent with a tag is refused
A4.partition | must host | answer extents log | A | an extent outside the partition is refused
A4.region | must host | answer extents log | A | an extent with no region at its start is refused
A4.decoder | must host | answer extents log | A | an extent that is not inside the endpoint decoder is refused
A4.overlap | must host | answer extents log | A | an extent that partly overlaps an accepted one is refused
A4.order | must host | log | A | the tests come in the order sequence, tag, partition, region, decoder, A5, overlap
A4.unchecked | may host | answer | A | misaligned, empty and wrapping extents are not refused for that
A5.again | may host | answer log | A | an extent wholly inside an accepted one is accepted again, and adds nothing
A6.left-out | must host | answer extents | A | the answer names what was not refused, and nothing else
A6.none | must host | answer block | A | when all is refused the answer is empty
A6.pages | must host | answer | A | an answer too long for one payload goes out as several, More on all but the last
A6.failed | must host | give_back log | A |
    an extent that fails in DAX after it came online is given back (4803h) before the answer, though never accepted
A7.order | may host | answer extents | A | the ranges of an answer come in any order
A8.one | must host | sysfs | A | one device extent is one region extent; there is no interleave
A9.read | must host | extents sysfs | A | extents that exist are read when a region is created, and surfaced
A9.unanswered | must host | answer | A | they are not answered again
A9.restart | must host | extents | A | a change of the list's generation restarts the read
A10.acknowledge | must host | give_back log | A | a release with no region is acknowledged with the range asked
A11.overlap | must host | give_back extents sysfs | A | a release tries every region extent that it overlaps
A11.in-use | must host | give_back extents sysfs log | A |
    a region extent in use is kept: nothing is sent, the manager must ask again
A11.whole | must host | give_back extents sysfs log | A | a free one is released whole, whatever part was asked
A14.any | may host | sysfs | by-size | a DAX device takes space from any extent, may span them, shrink, and share one
A14.available | must host | sysfs | by-size | available_size is the sum of what is free
A14.create | must host | claim | by-size | a DAX device cannot be created with no space free: ENOSPC
A14.uuid | must host | sysfs | by-size | a DAX device has no uuid file
A15.destroy | must host | give_back extents | A | destroying the region releases all its extents
A15.unload | must host | give_back extents | A | unloading dax_cxl releases all extents
A16.release | must host | - | A | caches are invalidated before a release is acknowledged
A16.online | must host | - | A | caches are invalidated before a new extent comes online
A17.scan | must host | sysfs | A | extents that surfaced before the DAX driver was there are found by its scan
B1.first | must host | answer extents log | B | of up to 8 partitions the first alone is used
B1.mode | must host | sysfs | B | the mode is the generation's: dynamic_ram_a, dynamic_ram_1 from v11 on
B1.commands | must host | sysfs | B | without each of 4800h to 4803h in the command log DCD is off
B1.interrupts | must host | sysfs | B | without interrupts DCD is off
B1.dsmad | must host | sysfs | B | a DSMAD handle with reserved bits set turns DCD off
B1.config | must host | sysfs | B | regions that break DEV-1 turn DCD off
B1.gap | must host | sysfs | B | a gap between static capacity and the first partition turns DCD off
B1.sharable | must host | answer | B |
    a partition is sharable by the CDAT entry that its handle names; with none it is not
B2.stage | must host | answer extents | B, 13/31 | there is one stage per memory device: only More parts chains
B2.close | must host | answer extents sysfs log | B, 13/31 | nothing is realised or answered before More is clear
B2.arm | must host | answer log | from-v10, 13/31 | each record with More arms the timer again
B2.stale | must host | answer | B, 13/31 | after a lost tail the next record joins the stale chain
B2.release | must host | give_back | upto-v11, 18/31 | a release is handled at once, inside an open chain too
B3.expiry | must host | answer block log | from-v10, 13/31 |
    20 s after the last record with More the chain is refused with an empty answer
B3.early | must host | answer | from-v10, 13/31 | it is not refused before
B3.late-tail | must host | answer | from-v10, 13/31 | a tail that comes after that is a chain of its own
B3.unbounded | may host | answer | B-rfc | a chain may wait for ever
B4.drop | must host | answer block | from-v11, 13/31 | a record that finds 100 staged drops them all and itself
B4.silent | must host | answer | from-v11, 13/31 | the drop itself is not answered
B4.armed | must host | answer | from-v11, 13/31 | the timer stays armed, so an empty answer comes at its end
B4.unbounded | may host | answer | upto-v10 | a chain may be of any length
B5.groups | must host | answer sysfs log | B, 14/31 | records are grouped by tag, in order of first appearance
B5.sorted | must host | sysfs log | B, 14/31 | a group is sorted by sequence; equal ones stay in order of arrival
B5.one | must host | answer | B, 14/31 | one answer settles the chain
B5.survivors | must host | answer extents block log | B, 14/31 | the answer names all that passed its gates
B5.only | must host | answer extents | B, 14/31 | the answer names nothing else
B5.none | must host | answer block | B, 14/31 | when nothing passed the answer is empty
B5.order | must host | answer extents | B, 14/31 | the answer's ranges come in the order offered
B5.pages | must host | answer | B | an answer too long for one payload goes out as several, More on all but the last
B5.realised | must host | log sysfs | B, 14/31 | a group is realised before the next one is looked at
B5.surfaced | must host | sysfs | B, 20/31 |
    each accepted extent shows its offset, length and tag under its dax region, and no other does
B6.live | must host | answer extents log | from-v10, 19/31 | a group is dropped when its tag is live on this host
B6.region | must host | answer extents log | B-rfc |
    a group is dropped when its tag is live in its first extent's region
B6.first | must host | log | B, 19/31 | group gates come in the order tag, sequence, partition, alignment
B7.dense | must host | answer log | from-v11, 17/31 |
    in a sharable partition a group is dropped unless its sequence is exactly 0 to n-1
B7.dense-1 | must host | answer log | upto-v10 | a group is dropped unless its sequence is all 0 or exactly 1 to n
B7.mixed | must host | answer log | upto-v10 | a group with sequence 0 and others is dropped
B8.empty | must host | answer log | from-v11, 16/31 | a tagged group with an empty extent is dropped
B8.wrap | must host | answer log | from-v11, 16/31 | a tagged group with an extent past 2^64 is dropped
B8.partition | must host | answer extents log | B, 17/31 |
    a tagged group with an extent outside the partition in use is dropped
B9.misaligned | must host | answer log | B, 15/31 | a group with a start or length off the alignment is dropped
B10.empty | must host | answer log | from-v11, 16/31 | an empty untagged extent is dropped
B10.wrap | must host | answer log | from-v11, 16/31 | an untagged extent past 2^64 is dropped
B10.partition | must host | answer extents log | B, 16/31 | an untagged extent outside the partition is dropped
B10.unchecked | may host | answer | upto-v10 | empty and wrapping extents are not dropped for that
B11.tag | must host | answer log | B, 16/31 | in a sharable partition an extent without a tag is dropped
B11.sequence | must host | answer log | B, 16/31 | outside one, an extent with a sequence is dropped
B11.missing | must host | answer log | upto-v10 | in a sharable partition an extent without a sequence is dropped
B12.region | must host | answer extents log | B, 14/31 | an extent with no dax region at its start is dropped
B13.scan | must host | answer extents log | from-v11, 27/31 |
    an extent is dropped while the region's first scan is not done, or never will be
B13.driver | may host | answer sysfs | upto-v10 | the DAX driver need not be there
B13.unloaded | may host | answer sysfs | from-v11, 27/31 | once the scan is done the DAX driver may go
B14.decoder | must host | answer log | B, 14/31 |
    an extent that is not inside the endpoint decoder is dropped, never clipped
B15.overlap | must host | answer log | B, 14/31 | an extent that partly overlaps an online one is dropped
B15.duplicate | may host | answer log | B, 14/31 |
    an extent wholly inside an online one is named in the answer, and adds nothing
B15.own-group | must host | answer log | B, 14/31 |
    overlap sees earlier groups of the chain, not members of its own group
B16.sharable | must host | sysfs | B, 17/31 | in a sharable partition the device's sequence orders a group
B16.arrival | must host | sysfs | B, 17/31 | elsewhere the order of arrival does
B16.last | must host | sysfs | from-v11, 17/31 | members that carry a sequence there go last and leave no gap
B16.hole | must host | sysfs claim | B, 17/31 | another member that fails leaves a hole at its place
B17.all | must host | sysfs | from-v11, 21/31 | the DAX resources of a group appear all or none
B17.left-out | must host | answer give_back | from-v11, 21/31 |
    a group that fails there (its members overlap) is left out of the answer; no 4803h
B17.released | must host | answer give_back | upto-v10 |
    a group that fails there is given back, one 4803h per member, and left out of the answer
B18.apart | may host | sysfs | B, 14/31 | the extents of a group need not adjoin
B18.interleave | must host | sysfs | B | there is no interleave
B19.acknowledge | must host | give_back log | B, 18/31 | a release with no region is acknowledged with the range asked
B20.inside | must host | give_back extents log | upto-v11, 18/31 |
    a release must lie inside one extent, else it is an error and nothing is sent
B20.tag | must host | give_back extents log | upto-v11, 18/31 | a release must carry its group's tag, else likewise
B20.unmatched | must host | give_back log | draft | a release that matches no extent is acknowledged as asked
B20.chain | must host | give_back | draft | a group goes only if the chain names every member
B21.invalidate | must host | - | from-v11, 18/31 | caches are invalidated before the in-use test
B21.kept | must host | - | from-v11, 18/31 | if that fails all is kept and nothing is sent
B21.after | must host | - | upto-v10 | caches are invalidated after the in-use test
B22.in-use | must host | give_back extents sysfs log | B, 22/31 |
    any member in use keeps the whole group: nothing is sent, the manager must ask again
B23.whole | must host | give_back extents sysfs log | B, 18/31 | else the whole group goes, whatever part was asked
B23.each | must host | give_back log | B, 18/31 | with one 4803h per member, in the group's order, each its full range
B25.restart | must host | extents | B, 27/31 | a change of generation or total restarts the scan
B25.tries | must host | extents sysfs | from-v11, 27/31 | 10 tries in all, then EAGAIN
B25.tries-11 | must host | extents sysfs | upto-v10 | 11 tries in all, then EAGAIN
B25.empty-page | must host | extents sysfs | from-v11, 27/31 | an empty page with more expected is EIO
B25.no-seed | must host | sysfs | from-v11, 27/31 | a scan that failed fails the dax region: no seed, and B13 for good
B26.gates | must host | sysfs log | B, 27/31 |
    what is recovered passes the same gates, but not B13 and no bound of length
B26.unanswered | must host | answer | from-v11, 27/31 | it is never answered again
B26.answered | must host | answer | upto-v10 | it is answered again, which the device refuses
B26.forgotten | must host | give_back extents | B, 27/31 | what a gate drops is forgotten: no 4803h
B26.failed | must host | give_back | B, 27/31 | a group that then fails to come online is released, one 4803h per member
B26.all | must host | sysfs | B, 27/31 | each scan reads the whole list, other regions' extents too
B27.zero | must host | sysfs | from-v10, 25/31 | a DAX device starts at size 0
B27.tag | must host | claim sysfs | from-v10, 26/31 | writing a tag takes every unclaimed extent of it
B27.sequence | must host | sysfs | from-v10, 26/31 | in sequence order
B27.untagged | must host | claim sysfs | from-v10, 26/31 | writing 0 or the null UUID takes exactly one untagged extent
B27.oldest | must host | claim sysfs | from-v10, 26/31 | the oldest that is free
B27.reads | must host | sysfs | from-v10, 26/31 | uuid reads the tag that was claimed; else 0, the null UUID from v11 on
B28.unparsable | must host | claim | from-v10, 26/31 | what is no UUID gets EINVAL
B28.driver | must host | claim | from-v10, 26/31 | with no driver on the region ENXIO
B28.busy | must host | claim | from-v11, 26/31 | with a size already EBUSY
B28.adds | may host | claim sysfs | v10 | a device that has a size takes another claim
B28.none | must host | claim | from-v10, 26/31 | with no match ENOENT
B28.gap | must host | claim | from-v10, 26/31 | with a gap in the sequence EINVAL
B28.misaligned | must host | claim | from-v11, 26/31 | with an extent off the device's alignment EINVAL
B28.order | must host | claim | from-v10, 26/31 | the tests come in that order
B28.unchanged | must host | claim sysfs | from-v10, 26/31 | after a failed claim nothing has changed
B28.read-only | must host | claim | from-v10, 26/31 | where capacity is not dynamic the file is read-only: EACCES
B29.misaligned | must host | claim | from-v10, 25/31 | a size off the alignment gets EINVAL
B29.bound | must host | claim | from-v10, 25/31 | a bound device gets EBUSY
B29.same | must host | claim | from-v10, 25/31 | the size that it has succeeds
B29.resize | must host | claim | from-v10, 25/31 | any other size but 0 gets EOPNOTSUPP
B29.drop | must host | claim sysfs | from-v10, 25/31 | size 0 drops the claim, not the capacity
B29.order | must host | claim | from-v10, 25/31 | the tests come in that order
B29.create | must host | claim | from-v10, 25/31 | a DAX device cannot be created with available_size 0: ENOSPC
B30.one | must host | sysfs | from-v10, 26/31 | one allocation is one device: no extent is claimed twice, none in part
B30.sum | must host | sysfs | from-v10, 26/31 | its size is the sum of its extents
B31.available | must host | sysfs | from-v10, 21/31 | available_size is the sum of what is unclaimed
B32.all | must host | give_back extents | B, 18/31 | unbinding the region releases every extent of it
B32.newest | must host | give_back log | B, 18/31 | newest first
B32.each | must host | give_back log | B, 18/31 | one 4803h each
B32.claims | must host | give_back sysfs | B, 18/31 | tag and claim are not asked
B33.none | must host | - | from-v11, 18/31 | no invalidation precedes those
C1.create | must host | claim | C, 001 |
    create_dc_region makes a region inside the DC partition, over nothing that is taken
C1.decoders | must host | claim | C, 001 | a region is bound when its decoders are programmed, not before and not after
C1.bound | must host | claim | C, 001 | a region has one driver at a time: a second bind gets EBUSY
C1.allowed | must host | claim | C, 001 |
    binding a driver that the mode does not allow fails with EOPNOTSUPP or ENOTSUPP
C1.undo | must host | claim sysfs | C, 001 | a bind that failed leaves the region as it was, fit for another driver
C1.bare | must host | sysfs | C, 001 | a DC region is bound without a DAX device
C1.unprobed | must host | sysfs | C, 001 | a manual bind of a ram region makes a DAX device and leaves it unprobed
C1.selected | must host | claim | C, 001 | a DAX device takes only the driver that its region's driver selects
C1.probe | must host | claim sysfs | C, 001 | binding it there probes it, once
C1.controls | must host | claim | C, 001 | a driver's controls are its own, and are set before it has anything
C1.discovery | must host | extents answer | C, 001 | what the device holds is found when a region is bound, unanswered
C1.region | must host | answer extents | C, 001 | an extent with no bound region at its start is refused
C1.inside | must host | answer extents | C, 000 |
    an extent that is empty, wraps, leaves its region or meets another one cannot be taken
C1.answer | must host | answer extents block | C, 000 |
    one answer settles a chain; it names what was taken and nothing else
C1.order | must host | answer | C, 000 | in the order offered
C1.pages | must host | answer | C, 000 | too long for one payload it goes out as several, More on all but the last
C1.surfaced | must host | sysfs | C, 000 | each extent that was taken is shown under its region, and no other is
C1.unheld | must host | give_back | C, 000 | a release that names by place and tag what no region holds sends nothing
C1.unbind | must host | give_back extents | C, 001 |
    a driver that goes gives everything back, newest first, one 4803h each
C2.whole | must host | answer extents | C, 000 | a tagged set comes whole: one member that cannot be taken refuses all
C2.chain | must host | answer extents | C, 000 |
    a set is what one chain delivers: nothing is answered before More is clear
C2.live | must host | answer extents | C, 000 | a tag whose set lives on this host is refused
C2.leave | must host | give_back extents | C, 000 |
    a set leaves whole, one 4803h per member, whatever part was asked; More is not waited for
C2.in-use | must host | give_back extents | C, 000 |
    where somebody holds any of it, nothing is sent: the manager must ask again
C2.device | must host | sysfs | C, 001 | each set is a DAX device of its own, bound to kmem
C2.uuid | must host | sysfs | C, 000 | the tag is readable at daxN.M/uuid
C2.policy | must host | claim | C, 001 | the hotplug policy is set before kmem has anything: EBUSY after
C2.online | must host | sysfs | C, 001 | memory comes as that policy says
C2.atomic | must host | claim sysfs | C, 001 |
    writing daxN.M/hotplug moves the whole device, or (EBUSY) nothing of it
C3.optional | may host | answer sysfs | C, 000 | a host may take untagged extents as memory
C3.asked | must host | answer extents | C, 000 | it does so only where its policy says so
C3.direct | must host | sysfs | C, 000 | they are tracked one by one and hotplugged with no DAX device
C3.part | must host | give_back extents | C, 000 | they are released in part: those that are named whole, and no others
C4.one-kind | must host | answer extents | C, 000 |
    a region that holds tagged extents takes no untagged ones, nor the reverse
C5.tag | must host | answer extents claim | C, 000 | devdax refuses untagged extents
C5.unique | must host | answer extents | C, 000 |
    a tag that lives on another host is refused, but for the same allocation
C5.device | must host | sysfs | C, 000 | each set is a new DAX device of all its extents, bound to device_dax
C5.uuid | must host | sysfs | C, 000 | the tag is readable at daxN.M/uuid
C6.tag | must host | answer extents claim | C, 000 | virtio refuses untagged extents
C6.vm | may host | - | C, 000 | a tag may name the VM that an extent is for
C6.each | must host | answer give_back extents | C, 000 | extents come and go one by one
C6.device | must host | sysfs | C, 000 | where DAX is used each extent has a device of its own; else there is none
C6.smallest | must host | answer claim | C, 000 | an extent below the smallest size is refused
C6.never-sysram | must host | claim | C, 000 | kmem never has its memory
C7.tag | must host | answer extents claim | C, 000 | any driver can be asked to refuse what has no tag
C8.pmem | must host | claim | C, 001 | pmem takes the pmem driver alone
C8.ram | must host | claim | C, 001 | ram takes the dax and the sysram driver, and the auto-decoder path
C8.dc | must host | claim | C, 001 | dc takes dax, sysram, virtio and devdax
C8.private | must host | claim | C, 001 | a private region has no path in sysfs, nor has a driver that there is not
C9.auto | must host | sysfs | C, 001 | region/bind of a ram region makes the DAX device, binds it to kmem and onlines it
WHAT-IF.untagged-partial-claim | must host | claim sysfs | by-uuid, 002 |
    a size written to an unclaimed device takes so much of untagged extents, oldest first
WHAT-IF.one-untagged-per-group | must host | give_back extents | B, 002 |
    each untagged extent is a group: it comes, is claimed and goes by itself
WHAT-IF.release-remembered | must host | give_back extents | A-C, 003 |
    what was asked for while it was in use goes when its last user does
WHAT-IF.extend-accepted | must host | answer extents | A-B, 003 |
    of an offer that extends what was accepted, the new part is taken
WHAT-IF.map-to-extents | must host | claim sysfs | A-B, 003 |
    a DAX device is made of the extents that are named, in that order
WHAT-IF.interleave | must host | sysfs | A, 003 |
    an extent surfaces when each device of its region has brought its share, and no sooner
WHAT-IF.no-tag-no-service | must host | answer extents claim | B-C, 000 | an untagged extent is refused
"""


def _placed(clause: Clause) -> Clause:
    """The clause with its generations, and the message it was read in, out of the fourth cell."""
    cell = clause.source.removeprefix(f"{CXL} ")
    names, _, message = cell.partition(", ")
    generations = GROUPS.get(names, (names,))
    if message in _SEEDS:
        return clause._replace(generations=generations, source=f"{_SERIES}: {_SEEDS[message]}")
    source = f"v11 {message}" if message else _SOURCES.get(names, names)
    return clause._replace(generations=generations, source=f"{_SERIES} {source}")


CLAUSES: dict[str, Clause] = {name: _placed(clause) for name, clause in read_table(_TABLE).items()}


def of_generation(generation: str) -> tuple[Clause, ...]:
    """The clauses that are for a generation as it is, by its name in `GROUPS`; () for one that is not there."""
    return tuple([one for one in CLAUSES.values() if generation in one.generations and one.rule != WHAT_IF])


EVERY: dict[str, Clause] = {**DEVICE_CLAUSES, **CLAUSES}
"""All clauses, the device's and the hosts', by id."""

_CACHE = "no witness sees the caches of the host: an invalidation that is left out changes no byte, and no line tells"
NOT_JUDGED: dict[str, str] = {
    **dict.fromkeys(("A16.release", "A16.online", "B21.invalidate", "B21.kept", "B21.after", "B33.none"), _CACHE),
    "B18.interleave": "no witness reads the interleave ways of a region that came to be",
    "B28.driver": "a DAX device without its driver is gone from sysfs before anything can be written to it",
    "B28.misaligned": "an extent off the alignment never surfaces (B9), so that none can be claimed",
    "C6.vm": "a tag that names a VM looks like any other",
}
"""Clauses that no verdict ever counts as held or broken, and why."""

BY_OTHERS: dict[str, str] = {
    "L2.unread": "what a host that reads them leaves out of its answer is B5.survivors",
    "A4.order": "whichever test refuses, the extent is left out alike, which is A4's own clauses",
    "B6.first": "whichever gate drops it, the group is left out alike, which is B5.survivors",
}
"""Clauses whose breach shows under another name, and which."""
