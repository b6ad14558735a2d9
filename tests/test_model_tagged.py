"""Host generation B by clause: for each, what triggers it and what happens, and a near miss where it does not.

A row reads: under these options, after `given`, `hit` makes the host say `says` and decides by the clause; `miss` does
not. The notation is in `host_notation`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import pytest
from host_notation import Case, World, begin, cause, check, do, extent, play, spell, table, told
from hypothesis import given, settings
from hypothesis import strategies as st

from dcdbackend.errors import AskedWrongly
from dcdbackend.extents import NULL_TAG, Extent
from dcdbackend.linux_rules import CLAUSES, TAGGED, of_generation
from dcdbackend.model import host as model
from dcdbackend.model.generation import GENERATIONS, setup
from dcdbackend.model.host import Event, Records, off, partition_of
from dcdbackend.model.permitted import Command, choose, departures, hold
from dcdbackend.model.quirks import QUIRKS, applicable

# clause | options | given | hit | says | miss | says then   (`-` is nothing; an indented line goes on with the row)
_TABLE = """\
L1.before-clear | v11 | $R | add 0+4M | answer 0+4M | add 0+4M ... | -
L1.clears | v11 | $R | foreign 0+4M | - | tick 1 | -
L1.until-empty | v11 | $R | foreign 0+4M | - | tick 1 | -
L2.foreign | v11 | $R | foreign 0+4M | - | add 0+4M | answer 0+4M
L2.kinds | v11 | $R | kind3 0+4M | ! EINVAL | add 0+4M | answer 0+4M
L2.unread | v11 | $R | add 0+4M | answer 0+4M | tick 1 | -
L3.start | v11 -Q5 | $R; region 1G+1G | add 0+4M/a 1G+4M/a | answer 0+4M 1G+4M | add 0+4M/a 8M+4M/a |
    answer 0+4M 8M+4M
L3.several | v11 | make region0 0+1G | make region1 1G+1G | - | make region1 0+1G | ! EBUSY
L4.ignored | v11 | $A2 | release 0+4M/a ... | give 0+4M; give 8M+4M | release 0+4M/a | give 0+4M; give 8M+4M
L4.chain | draft | $A2 | release 0+4M/a ... | - | tick 1 | -
L5.forced | v11 | $A2 | forced 0+4M/a | - | release 0+4M/a | give 0+4M; give 8M+4M
L5.unknown | v11 | $R | kind9 0+4M | ! EINVAL | kind3 0+4M | ! EINVAL
B2.stage | v11 | $R | add 0+4M ... | - | add 0+4M | answer 0+4M
B2.close | v11 | $R | add 0+4M/a 8M+4M/a ... | - | add 0+4M/a 8M+4M/a | answer 0+4M 8M+4M
B2.arm | v11 | $R; add 0+4M ...; wait 19 | add 8M+4M ... | - | add 8M+4M | answer 0+4M 8M+4M
B2.stale | v11 | $R; add 0+4M/a ...; wait 5 | add 64M+4M/b | answer 0+4M 64M+4M | tick 1 | -
B2.release | v11 | $A2; add 64M+4M ... | release 0+4M/a | give 0+4M; give 8M+4M | tick 1 | -
B3.expiry | v11 | $R; add 0+4M ... | tick 20 | answer none | tick 19.999999999 | -
B3.early | v11 | $R; add 0+4M ... | tick 19 | - | tick 21 | answer none
B3.early | v11 | $R; add 0+4M ...; wait 19; add 8M+4M ... | tick 19 | - | tick 20 | answer none
B3.late-tail | v11 | $R; add 0+4M ...; wait 21 | add 8M+4M | answer none; answer 8M+4M | tick 1 | answer none
B3.unbounded | B-rfc | $R; add 0+4M ... | tick 3600 | - | add 8M+4M | answer 0+4M 8M+4M
B5.groups | v11 | $R | add 0+4M/a 8M+4M/b 16M+4M/a | answer 0+4M 16M+4M 8M+4M | tick 1 | -
B5.realised | v11 | $R | add 0+4M/a 8M+4M/b | answer 0+4M 8M+4M | add 0+4M/a 8M+4M/a | answer 0+4M 8M+4M
B5.sorted | v11 sharable | $R | add 0+4M/a#1 8M+4M/a#0 | answer 8M+4M 0+4M | add 0+4M/a#0 8M+4M/a#1 |
    answer 0+4M 8M+4M
B5.one | v11 | $R | add 0+4M/a 8M+4M | answer 0+4M 8M+4M | add 0+4M/a 8M+4M ... | -
B5.survivors | v11 | $R | add 0+4M/a 1M+4M 8M+4M/b | answer 0+4M 8M+4M | add 1M+4M | answer none
B5.only | v11 | $R | add 0+4M/a 1M+4M | answer 0+4M | add 0+4M/a 1M+4M ... | -
B5.none | v11 | $R | add 1M+4M | answer none | add 2M+4M | answer 2M+4M
B5.order | v11 -Q7 | $R | add 0+4M/a 8M+4M/b 16M+4M/a | answer 0+4M 8M+4M 16M+4M | add 0+4M/a ... | -
B5.pages | v11 small | $R | add 0+2M 4M+2M 8M+2M 12M+2M 16M+2M |
    answer 0+2M 4M+2M 8M+2M 12M+2M more; answer 16M+2M | add 0+2M 4M+2M 8M+2M 12M+2M | answer 0+2M 4M+2M 8M+2M 12M+2M
B5.surfaced | v11 | $R | add 0+4M | answer 0+4M | add 1M+4M | answer none
B6.live | v11 | $A2 | add 64M+4M/a | answer none | add 64M+4M/b | answer 64M+4M
B6.live | v11 | $A2; region 0+1G @mem1 | add 64M+4M/a @mem1 | answer none | add 64M+4M/b @mem1 | answer 64M+4M
B6.region | B-rfc | $A2 | add 64M+4M/a | answer none | add 64M+4M/b | answer 64M+4M
B6.region | B-rfc | $A2; region 1G+1G | add 64M+4M/a | answer none | add 1G+4M/a | answer 1G+4M
B6.first | v11 | $A2 | add 1M+4M/a | answer none | add 64M+4M/c | answer 64M+4M
B7.dense | v11 sharable | $R | add 0+4M/a#0 8M+4M/a#2 | answer none | add 0+4M/a#0 8M+4M/a#1 | answer 0+4M 8M+4M
B7.dense | v11 sharable | $R | add 0+4M/a#1 8M+4M/a#2 | answer none | add 0+4M/b#1 8M+4M/b#0 | answer 8M+4M 0+4M
B7.dense | v11 sharable | $R | add 0+4M/a#0 8M+4M/a#0 | answer none | add 0+4M/a#0 | answer 0+4M
B7.dense-1 | v10 sharable | $R | add 0+4M/a#1 8M+4M/a#3 | answer none | add 0+4M/a#1 8M+4M/a#2 | answer 0+4M 8M+4M
B7.mixed | v10 | $R | add 0+4M/a 8M+4M/a#1 | answer none | add 0+4M/a 8M+4M/a | answer 0+4M 8M+4M
B8.empty | v11 | $R | add 0+4M/a 8M+0/a | answer none | add 0+4M/a 8M+2M/a | answer 0+4M 8M+2M
B8.wrap | v11 | $R | add 0+4M/a 0xfffffffffff00000+2M/a | answer none | add 0+4M/a 8M+2M/a | answer 0+4M 8M+2M
B8.partition | v11 | $R | add 0+4M/a 4G+4M/a | answer none | add 0+4M/a 8M+4M/a | answer 0+4M 8M+4M
B9.misaligned | v11 | $R | add 0+4M/a 9M+4M/a | answer none | add 0+4M/a 8M+4M/a | answer 0+4M 8M+4M
B9.misaligned | v11 | $R | add 0+4M 9M+4M | answer none | add 0+4M 8M+4M | answer 0+4M 8M+4M
B9.misaligned | v11 -Q6 | $R | add 0+4M 9M+4M | answer 0+4M | add 0+4M 8M+4M | answer 0+4M 8M+4M
B9.misaligned | v11 pmd=512M | $R | add 0+4M | answer none | add 0+512M | answer 0+512M
B9.misaligned | v10 pmd=512M | $R | add 1M+2M | answer none | add 0+2M | answer 0+2M
B10.empty | v11 | $R | add 0+4M 8M+0 | answer 0+4M | add 0+4M 8M+2M | answer 0+4M 8M+2M
B10.wrap | v11 | $R | add 0+4M 0xffffffffffe00000+4M | answer 0+4M | add 0+4M 8M+4M | answer 0+4M 8M+4M
B10.partition | v11 | $R | add 0+4M 4G+4M | answer 0+4M | add 0+4M 8M+4M | answer 0+4M 8M+4M
B11.tag | v11 sharable | $R | add 0+4M | answer none | add 0+4M/a | answer 0+4M
B11.sequence | v11 | $R | add 0+4M/a 8M+4M/a#3 | answer 0+4M | add 0+4M/a 8M+4M/a | answer 0+4M 8M+4M
B11.missing | v10 sharable | $R | add 0+4M/a | answer none | add 0+4M/a#1 | answer 0+4M
B12.region | v11 | $R | add 0+4M/a 2G+4M/a | answer 0+4M | add 0+4M/a 8M+4M/a | answer 0+4M 8M+4M
B12.region | v11 | make region0 0+1G | add 0+4M | answer none | bind region0; pages; add 0+4M | answer 0+4M
B13.scan | v11 | $BOUND | add 0+4M | answer none | pages; add 0+4M | answer 0+4M
B13.scan | v11 no-driver | $R | add 0+4M | answer none | load; pages; add 0+4M | answer 0+4M
B13.scan | v11 -Q3 | $BOUND | add 0+4M | - | pages; add 0+4M | answer 0+4M
B13.driver | v10 no-driver | $R | add 0+4M | answer 0+4M | load; add 8M+4M | answer 8M+4M
B13.unloaded | v11 | $R; unload | add 0+4M | answer 0+4M | load; pages; add 8M+4M | answer 8M+4M
B14.decoder | v11 | $R | add 1022M+4M | answer none | add 1020M+4M | answer 1020M+4M
B15.overlap | v11 | $A2 | add 2M+4M | answer none | add 4M+4M | answer 4M+4M
B15.duplicate | v11 | $A2 | add 2M+2M 4M+4M | answer 2M+2M 4M+4M | add 4M+4M | answer 4M+4M
B15.duplicate | v11 -Q1 | $A2 | add 2M+2M | answer 2M+2M | add 4M+2M | answer 4M+2M
B15.own-group | v11 | $R | add 0+4M/a 2M+4M/a | answer none | add 0+4M/a 4M+4M/a | answer 0+4M 4M+4M
B16.sharable | v11 sharable | $R | add 8M+4M/a#1 0+4M/a#0 | answer 0+4M 8M+4M | add 8M+4M/a#0 | answer 8M+4M
B16.arrival | v11 | $R | add 8M+4M/a 0+4M/a | answer 8M+4M 0+4M | add 8M+4M/a | answer 8M+4M
B16.last | v11 | $R | add 16M+4M/a#1 0+4M/a 8M+4M/a | answer 0+4M 8M+4M | add 0+4M/a 8M+4M/a | answer 0+4M 8M+4M
B16.hole | v11 | $R | add 0+4M/a 2G+4M/a 8M+4M/a | answer 0+4M 8M+4M | add 0+4M/a 8M+4M/a 2G+4M/a | answer 0+4M 8M+4M
B17.all | v11 | $R | add 0+4M/a 8M+4M/a | answer 0+4M 8M+4M | add 0+4M/a | answer 0+4M
B17.left-out | v11 | $R | fault dax; add 0+4M/a 8M+4M/a | answer none | add 0+4M/a | answer 0+4M
B17.released | v10 | $R | add 0+4M/a 2M+4M/a | give 0+4M; give 2M+4M; answer none | add 0+4M/a 4M+4M/a |
    answer 0+4M 4M+4M
B18.apart | v11 | $R | add 0+4M/a 512M+4M/a | answer 0+4M 512M+4M | add 0+4M/a | answer 0+4M
B1.sharable | v11 sharable | $R | add 0+4M/a#0 | answer 0+4M | add 0+4M/a#1 | answer none
B19.acknowledge | v11 | $A2 | release 2G+4M | give 2G+4M; ! ENXIO | release 512M+4M | ! EINVAL
B20.inside | v11 | $A2 | release 2M+8M/a | ! EINVAL | release 2M+2M/a | give 0+4M; give 8M+4M
B20.tag | v11 | $A2 | release 0+4M/b | ! EINVAL | release 0+4M/a | give 0+4M; give 8M+4M
B20.tag | v11 | $A2 | release 0+4M | ! EINVAL | release 8M+4M/a | give 0+4M; give 8M+4M
B20.unmatched | draft | $A2 | release 0+4M/b | give 0+4M | release 0+4M/a 8M+4M/a | give 0+4M; give 8M+4M
B20.chain | draft | $A2 | release 0+4M/a | - | release 0+4M/a 8M+4M/a | give 0+4M; give 8M+4M
B21.invalidate | v11 | $A2 | release 0+4M/a | give 0+4M; give 8M+4M | release 0+4M/b | ! EINVAL
B21.kept | v11 | $A2 | fault invalidate; release 0+4M/a | ! ENXIO | release 0+4M/a | give 0+4M; give 8M+4M
B21.after | v10 | $A2 | release 0+4M/a | give 0+4M; give 8M+4M | release 0+4M/b | ! EINVAL
B22.in-use | v11 | $A2; claim dax0.0 a | release 0+4M/a | - | size dax0.0 0; release 0+4M/a | give 0+4M; give 8M+4M
B22.in-use | v11 | $TWO; claim dax0.0 0; create region0; claim dax0.1 0; size dax0.0 0 | release 0+4M | - |
    size dax0.1 0; release 0+4M | give 0+4M; give 8M+4M
B23.whole | v11 | $A2 | release 2M+2M/a | give 0+4M; give 8M+4M | forced 2M+2M/a | -
B23.each | v11 | $A2 | release 0+4M/a | give 0+4M; give 8M+4M | release 0+4M/b | ! EINVAL
B25.restart | v11 | $BOUND; page region0 2 0 0+4M | page region0 2 1 8M+4M | read 0 | page region0 2 0 8M+4M | -
B25.restart | v11 | $BOUND; page region0 2 0 0+4M | page region0 3 0 8M+4M | read 0 | page region0 2 0 8M+4M | -
B25.empty-page | v11 | $BOUND | page region0 2 0 | ! EIO | page region0 0 0 | -
B25.no-seed | v11 | $BOUND | page region0 2 0 | ! EIO | page region0 2 0 0+4M | read 1
B26.gates | v11 | held 0+4M/a 1M+4M/b; $BOUND | pages | - | page region0 0 0 | -
B26.unanswered | v11 | held 0+4M/a; $BOUND | pages | - | page region0 0 0 | -
B26.answered | v10 | held 0+4M/a; $BOUND | pages | answer 0+4M | page region0 0 0 | -
B26.forgotten | v11 | held 1M+4M/b; $BOUND | pages | - | page region0 1 0 0+4M | -
B26.failed | v11 | held 0+4M/a 8M+4M/a; $BOUND; fault dax | pages | give 0+4M; give 8M+4M | fault; pages | -
B26.all | v11 | held 0+4M/a 1G+4M/b; region 0+1G; make region1 1G+1G; bind region1 | pages | - | page region1 0 0 | -
B27.zero | v11 | $BOUND | pages | - | page region0 2 0 | ! EIO
B27.tag | v11 | $A2 | claim dax0.0 a | - | claim dax0.0 b | ! ENOENT
B27.sequence | v11 | $A2 | claim dax0.0 a | - | release 0+4M/a; add 0+4M/b; claim dax0.0 b | -
B27.untagged | v11 | $TWO | claim dax0.0 0 | - | claim dax0.0 a | ! ENOENT
B27.untagged | v11 | $TWO | claim dax0.0 00000000-0000-0000-0000-000000000000 | - | claim dax0.0 a | ! ENOENT
B27.oldest | v11 | $TWO | claim dax0.0 0 | - | claim dax0.0 0; create region0; claim dax0.1 0 | -
B28.unparsable | v11 | $A2 | claim dax0.0 tag | ! EINVAL | claim dax0.0 a | -
B28.order | v11 | $A2 | claim dax0.0 tag | ! EINVAL | claim dax0.0 a | -
B28.busy | v11 | $A2; claim dax0.0 a; add 64M+4M | claim dax0.0 0 | ! EBUSY | create region0; claim dax0.1 0 | -
B28.adds | v10 | $A2; claim dax0.0 a; add 64M+4M | claim dax0.0 0 | - | create region0; claim dax0.1 0 | -
B28.none | v11 | $A2 | claim dax0.0 0 | ! ENOENT | claim dax0.0 a | -
B28.gap | v11 | $R; add 0+4M/a 2G+4M/a 8M+4M/a | claim dax0.0 a | ! EINVAL |
    release 0+4M/a; add 0+4M/a 8M+4M/a; claim dax0.0 a | -
B28.unchanged | v11 | $A2 | claim dax0.0 b | ! ENOENT | claim dax0.0 a | -
B28.read-only | v11 | make region0 0+1G static; bind region0 | claim dax0.0 0 | ! EACCES |
    region 1G+1G; add 1G+4M; claim dax1.0 0 | -
B29.misaligned | v11 | $A2 | size dax0.0 1M | ! EINVAL | size dax0.0 2M | ! EOPNOTSUPP
B29.bound | v11 | $A2; claim dax0.0 a; drive dax0.0 device_dax | size dax0.0 0 | ! EBUSY |
    undrive dax0.0; size dax0.0 0 | -
B29.same | v11 | $A2; claim dax0.0 a | size dax0.0 8M | - | size dax0.0 4M | ! EOPNOTSUPP
B29.resize | v11 | $A2; claim dax0.0 a | size dax0.0 4M | ! EOPNOTSUPP | size dax0.0 0 | -
B29.drop | v11 | $A2; claim dax0.0 a | size dax0.0 0 | - | size dax0.0 8M | -
B29.order | v11 | $A2; claim dax0.0 a; drive dax0.0 kmem | size dax0.0 1M | ! EINVAL | claim dax0.0 a | ! EBUSY
B29.create | v11 | $A2; claim dax0.0 a | create region0 | ! ENOSPC | add 64M+4M; create region0 | -
B30.one | v11 | $A2 | claim dax0.0 a | - | claim dax0.0 b | ! ENOENT
B30.sum | v11 | $A2 | claim dax0.0 a | - | claim dax0.0 b | ! ENOENT
B31.available | v11 | $A2 | claim dax0.0 a | - | claim dax0.0 b | ! ENOENT
B32.all | v11 | $A2; add 64M+4M | unbind region0 | give 64M+4M; give 8M+4M; give 0+4M | reset | -
B32.newest | v11 | $A2; add 64M+4M | destroy region0 | give 64M+4M; give 8M+4M; give 0+4M | reset | -
B32.each | v11 | $A2 | unload | give 8M+4M; give 0+4M | reset | -
B32.claims | v11 | $A2; claim dax0.0 a; drive dax0.0 kmem | unbind region0 | give 8M+4M; give 0+4M |
    release 0+4M/a | -
B33.none | v11 | $A2 | unbind region0 | give 8M+4M; give 0+4M | release 0+4M/a | give 0+4M; give 8M+4M
B17.all | v11 -Q2 | $R | add 0+4M/a 8M+4M/a | answer 0+4M 8M+4M | add 0+4M/a 2G+4M/a | answer none
"""
SHORT = {
    "$R": "region 0+1G",
    "$A2": "region 0+1G; add 0+4M/a 8M+4M/a",
    "$TWO": "region 0+1G; add 0+4M 8M+4M",
    "$BOUND": "make region0 0+1G; bind region0",
}
R, A2, TWO = SHORT["$R"], SHORT["$A2"], SHORT["$TWO"]
CASES = [Case(*row) for row in table(_TABLE, SHORT)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.clause}-{case.options}")
def test_clause(case: Case) -> None:
    check(case)


# ---- clauses that a row cannot show ----------------------------------------------------------------------------------


def chain(count: int, first: int = 0) -> str:
    """`count` extents of 2M, 4M apart."""
    return " ".join([f"{4 * at}M+2M" for at in range(first, first + count)])


def test_chain_bound() -> None:
    """B4.drop, B4.silent, B4.armed: the 101st record drops all; the timer answers, unless a record closes first."""
    full = play("v11", f"{R}; add {chain(100)} ...; wait 3")
    at_bound = play("v11", f"add {chain(1, 100)}", full)
    assert at_bound.says.count("+2M") == 0 and at_bound.says == "! ENOSPC"
    assert {"B4.drop", "B4.silent"} <= set(at_bound.judged) and len(at_bound.dropped) == 101
    assert play("v11", f"add {chain(1, 99)}", play("v11", f"{R}; add {chain(99)} ...")).says.count("+2M") == 100
    assert (
        "B4.armed" in play("v11", "tick 17", at_bound).judged and play("v11", "tick 17", at_bound).says == "answer none"
    )
    assert play("v11", "tick 16.9", at_bound).says == ""
    closed = play("v11", f"add {chain(1, 200)}", at_bound)
    assert closed.says == "answer 800M+2M" and play("v11", "tick 30", closed).says == ""


def test_chain_unbounded() -> None:
    """B4.unbounded: v10 takes a chain of 101; v11 does not."""
    assert "B4.unbounded" in play("v10", f"{R}; add {chain(101)}").judged
    assert play("v10", f"{R}; add {chain(101)}").says.count("+2M") == 101
    assert play("v11", f"{R}; add {chain(100)}").says.count("+2M") == 100
    assert "B4.unbounded" not in play("v10", f"{R}; add {chain(100)}").judged


def test_shape_is_not_looked_at_before_v11() -> None:
    """B10.unchecked: an empty extent passes the partition gate of v10, and fails in DAX; v11 drops it there."""
    v10 = play("v10", f"{R}; add 8M+0/a")
    assert v10.says == "give 8M+0; answer none" and not {"B10.empty", "B8.empty"} & set(v10.judged)
    assert "B8.empty" in play("v11", f"{R}; add 8M+0/a").judged


def tries(options: str, restarts: int) -> World:
    """A scan whose list has changed so often."""
    turns = "; ".join(["page region0 9 0 0+4M; page region0 9 1 0+4M"] * restarts)
    return play(options, f"make region0 0+1G; bind region0; {turns}")


def test_scan_tries() -> None:
    """B25.tries, B25.tries-11: 10 in all since v11, and the region fails; 11 before, and it comes up all the same."""
    assert tries("v11", 9).says == "read 0" and "B25.tries" not in tries("v11", 9).judged
    last = tries("v11", 10)
    assert last.says == "! EAGAIN" and {"B25.tries", "B25.no-seed"} <= set(last.judged)
    assert last.host.region("region0").failed and not last.host.devices
    assert tries("v10", 10).says == "read 0" and "B25.tries-11" not in tries("v10", 10).judged
    last = tries("v10", 11)
    assert last.says == "! EAGAIN" and "B25.tries-11" in last.judged and last.host.device("dax0.0")


REGION = {"index": 0, "base": 0, "decode_length": 1 << 30, "length": 1 << 30, "block_size": 2 << 20, "dsmad_handle": 0}


@pytest.mark.parametrize(
    ("clause", "regions", "more"),
    [
        ("", [REGION], {}),
        ("", [REGION, {**REGION, "index": 1, "base": 1 << 30}], {"static_bytes": 0}),
        ("B1.commands", [REGION], {"commands": (0x4800, 0x4801, 0x4802)}),
        ("B1.interrupts", [REGION], {"interrupts": False}),
        ("B1.dsmad", [{**REGION, "dsmad_handle": 0x100}], {}),
        ("B1.config", [{**REGION, "block_size": 3 << 20}], {}),
        ("B1.config", [{**REGION, "base": 1 << 20}], {}),
        ("B1.config", [REGION, REGION], {}),
        ("B1.gap", [{**REGION, "base": 1 << 30}], {"static_bytes": 1 << 29}),
    ],
)
def test_switched_off(clause: str, regions: list[dict[str, int]], more: dict[str, object]) -> None:
    """B1: what turns DCD off; a host without it reads no log."""
    assert off(regions, **more) == clause  # type: ignore[arg-type]
    if not more:
        assert (partition_of(regions) is None) == bool(clause)
    none = model.Host(setup("v11"), (model.Memdev("mem0", None),))
    assert model.decide(none, Records("mem0", (Event(0, 0, 4 << 20, handle=1),)))[0].plan == ()


def test_first_partition() -> None:
    """B1.first, B1.sharable: the first region's decode length, sharable by its handle; a second region is outside."""
    second = {**REGION, "index": 1, "base": 1 << 30, "dsmad_handle": 7}
    assert partition_of([REGION, second]) == model.Partition(0, 1 << 30, False)
    assert partition_of([second], sharable=[7]) == model.Partition(1 << 30, 1 << 30, True)
    assert "B10.partition" in play("v11", f"{R}; add 4G+4M").judged


def test_no_driver_on_the_region() -> None:
    """B28.driver: only a race with an unbind shows it; parsing comes first."""
    world = play("v11", A2)
    region = world.host.region("region0")._replace(probed=False)
    lost = world._replace(host=world.host.with_region(region))
    assert play("v11", "claim dax0.0 a", lost).says == "! ENXIO"
    assert "B28.driver" in play("v11", "claim dax0.0 a", lost).judged
    assert play("v11", "claim dax0.0 tag", lost).says == "! EINVAL"


def test_claim_misaligned() -> None:
    """B28.misaligned: an extent that came while the PMD was smaller cannot be claimed; B28.unchanged after it."""
    world = play("v11", f"{R}; add 0+2M")
    grown = world._replace(host=world.host._replace(setup=world.host.setup._replace(pmd_bytes=4 << 20)))
    refused = play("v11", "claim dax0.0 0", grown)
    assert refused.says == "! EINVAL" and "B28.misaligned" in refused.judged
    assert refused.host == grown.host
    assert play("v10", "claim dax0.0 0", play("v10", f"{R}; add 0+2M")).says == ""


def test_no_interleave() -> None:
    """B18.interleave: an extent appears at its own offset in one region, whole."""
    (one,) = play("v11", f"{R}; add 64M+4M").host.extents
    assert (one.offset, one.length, one.region) == (64 << 20, 4 << 20, "region0")


# column | A | B-rfc | v10 | v11 | draft: the table of the rules, and what the series' messages add to it
_GENERATIONS = """\
mode | dynamic_ram_a | dynamic_ram_a | dynamic_ram_a | dynamic_ram_1 | dynamic_ram_1
sequence | refused | zero-or-dense | zero-or-dense | sharable | sharable
sequence_base | 0 | 1 | 1 | 0 | 0
tags | refused | region | host | host | host
align | None | 2097152 | 2097152 | 0 | 0
checks_shape | False | False | False | True | True
uuid | None | None | 0 | 00000000-0000-0000-0000-000000000000 | 00000000-0000-0000-0000-000000000000
timeout_ns | None | None | 20000000000 | 20000000000 | 20000000000
most_staged | None | None | None | 100 | 100
scan_at | region | region | region | probe | probe
scan_tries | 11 | 11 | 11 | 10 | 10
scan_gate | False | False | False | True | True
empty_page_fails | False | False | False | True | True
recovered_answered | False | True | True | False | False
failed_group | released | released | released | left-out | left-out
claim | size | size | uuid | uuid | uuid
claim_checks | False | False | False | True | True
unmatched | acknowledged | error | error | error | acknowledged
release_chains | False | False | False | False | True
invalidates | online after | online after | after | before | before
first_extent_id | 0 | 0 | 0 | 1 | 1
"""


def test_generations() -> None:
    """Each row is what the table says, column by column, and has no column that the table does not name."""
    found = {}
    for column, *values in table(_GENERATIONS, {}):
        found[column] = values
        for row, value in zip(GENERATIONS.values(), values, strict=True):
            is_ = getattr(row, column)
            assert (" ".join(is_) if isinstance(is_, tuple) else str(is_)) == value, (row.name, column)
    assert {*found, "name", "kind"} == set(GENERATIONS["v11"]._fields)
    assert [row.kind for row in GENERATIONS.values()] == ["sparse", "tagged", "tagged", "tagged", "tagged"]


def test_mode() -> None:
    """B1.mode: by generation; what sysfs shows is held against it in the records."""
    assert {name: row.mode for name, row in GENERATIONS.items()} == {
        "A": "dynamic_ram_a",
        "B-rfc": "dynamic_ram_a",
        "v10": "dynamic_ram_a",
        "v11": "dynamic_ram_1",
        "draft": "dynamic_ram_1",
    }


def test_uuid_reads() -> None:
    """B27.reads: the tag that was claimed; unclaimed or untagged the null UUID, before v11 `0`."""
    from dcdbackend.model.claims import reads

    for options, unclaimed in (("v11", "00000000-0000-0000-0000-000000000000"), ("v10", "0"), ("B-rfc", None)):
        world = play(options, A2)
        assert reads(world.host, world.host.device("dax0.0")) == unclaimed
    world = play("v11", f"{A2}; claim dax0.0 a")
    assert reads(world.host, world.host.device("dax0.0")) == "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"


def test_order_of_what_is_inside() -> None:
    """B21, B33, Q13: caches against the in-use test, coming online and releases; no witness on QEMU sees it."""

    def acts(options: str, script: str) -> list[str]:
        way = play(options, script).way
        assert way is not None
        return [what for what, _ in way.acts]

    assert acts("v11", f"{A2}; release 0+4M/a") == ["invalidate", "test-use", "give_back", "give_back"]
    assert acts("v10", f"{A2}; release 0+4M/a") == ["test-use", "invalidate", "give_back", "give_back"]
    assert acts("v11", f"{A2}; claim dax0.0 a; release 0+4M/a") == ["invalidate", "test-use"]
    assert acts("v11", A2) == ["online", "online", "answer"]
    assert acts("v11 -Q13", A2) == ["invalidate", "online", "online", "answer"]
    assert acts("B-rfc", A2) == ["invalidate", "online", "online", "answer"]
    assert acts("v11", f"{A2}; unbind region0") == ["give_back", "give_back"]
    assert acts("v11 -Q13", f"{A2}; unbind region0") == ["invalidate", "give_back"] * 2


ELSEWHERE = {
    "B1.first": test_first_partition,
    "B1.mode": test_mode,
    "B1.commands": test_switched_off,
    "B1.interrupts": test_switched_off,
    "B1.dsmad": test_switched_off,
    "B1.config": test_switched_off,
    "B1.gap": test_switched_off,
    "B4.drop": test_chain_bound,
    "B4.silent": test_chain_bound,
    "B4.armed": test_chain_bound,
    "B4.unbounded": test_chain_unbounded,
    "B10.unchecked": test_shape_is_not_looked_at_before_v11,
    "B18.interleave": test_no_interleave,
    "B25.tries": test_scan_tries,
    "B25.tries-11": test_scan_tries,
    "B27.reads": test_uuid_reads,
    "B28.driver": test_no_driver_on_the_region,
    "B28.misaligned": test_claim_misaligned,
}


def test_every_clause_is_shown() -> None:
    shown = {case.clause for case in CASES} | set(ELSEWHERE) | {row.clause for row in WRONG if row.clause == "L1.only"}
    due = {clause.id for name in TAGGED for clause in of_generation(name) if clause.rule[0] in "LB"}
    assert due - shown == set() and shown - due == set()


def test_nobody_sees_these() -> None:
    """What no witness here can see is listed as such; nothing else is."""
    unseen = {clause.id for clause in CLAUSES.values() if not clause.witnesses}
    assert unseen == {"A16.release", "A16.online", "B21.invalidate", "B21.kept", "B21.after", "B33.none", "C6.vm"}


# ---- departures ------------------------------------------------------------------------------------------------------


class Bend(NamedTuple):
    """A departure: what the code does, and what the documentation promises."""

    quirk: str
    options: str
    given: str
    step: str
    code: str
    documented: str


BENDS = [
    Bend("Q1", "v11", A2, "add 2M+2M", "answer none", "answer 2M+2M"),
    Bend("Q2", "v11", R, "add 0+4M/a 2G+4M/a", "answer 0+4M", "answer none"),
    Bend("Q2", "v10", A2, "add 64M+4M/b 2G+4M/b", "answer 64M+4M", "answer none"),
    Bend("Q4", "v11", A2, "release 0+4M/a 8M+4M/a", "give 0+4M; give 8M+4M; ! EINVAL", "give 0+4M; give 8M+4M"),
    Bend("Q6", "v11", TWO, "release 0+4M", "give 0+4M; give 8M+4M", "give 0+4M"),
    Bend("Q7", "v11", R, "add 0+4M/a 8M+4M 16M+4M/a", "answer 0+4M 16M+4M 8M+4M", "answer 0+4M 8M+4M 16M+4M"),
    Bend("Q10", "v11", f"{R}; add {chain(100)} ...; add 512M+2M ...", "add 516M+2M", "answer 516M+2M", "answer none"),
    Bend("Q13", "v11", R, "add 0+4M", "answer 0+4M", "answer 0+4M"),
]


@pytest.mark.parametrize("bend", BENDS, ids=lambda bend: f"{bend.quirk}-{bend.options}")
def test_departure(bend: Bend) -> None:
    on = play(bend.options, f"{bend.given}; {bend.step}")
    assert on.says == bend.code and on.way is not None and bend.quirk in on.way.quirks
    found = [(one.outcome, one.clause) for one in departures(on.way) if one.departure == bend.quirk]
    assert found == [("departure", QUIRKS[bend.quirk].clause)] * QUIRKS[bend.quirk].visible
    without = play(f"{bend.options} -{bend.quirk}", f"{bend.given}; {bend.step}")
    assert without.says == bend.documented and without.way is not None and bend.quirk not in without.way.quirks


def test_departures_that_show_later() -> None:
    """Q3: refused, or answered when the scan is done. Q5: one region, or each its own. Q8: the chain is lost."""
    scanning = "make region0 0+1G; bind region0; add 0+4M"
    assert play("v11", f"{scanning}; pages").says == ""
    assert play("v11 -Q3", f"{scanning}; pages").says == "answer 0+4M"
    both = "region 0+1G; region 1G+1G; add 0+4M/a 1032M+4M/a"
    assert {one.region for one in play("v11", both).host.extents} == {"region0"}
    assert [one.region for one in play("v11 -Q5", both).host.extents] == ["region0", "region1"]
    assert "Q5" in played(play("v11", both)).quirks and "Q5" not in played(play("v11", A2)).quirks
    flight = "add 0+4M ...; make region0 0+1G; bind region0; pages"
    assert "Q8" in played(play("v11", flight)).quirks
    assert play("v11", f"{flight}; add 8M+4M").says == "answer 8M+4M"
    assert play("v11 -Q8", f"{flight}; add 8M+4M").says == "answer 0+4M 8M+4M"
    assert play("v11", flight).host.memdev("mem0").deadline_ns is not None


def played(world: World) -> model.Decision:
    assert world.way is not None
    return world.way


def test_every_departure_is_shown() -> None:
    shown = {bend.quirk for bend in BENDS} | {"Q3", "Q5", "Q8"}
    assert shown == {row.id for row in QUIRKS.values() if row.switch}
    assert all(row.clause in CLAUSES for row in QUIRKS.values())


def test_setup_refuses() -> None:
    for wrong, text in (
        ({"generation": "v12"}, "there are A, B-rfc, v10, v11, draft, C"),
        ({"generation": "v10", "quirks": ["Q3"]}, "has no Q3"),
        ({"generation": "A", "quirks": ["Q7"]}, "has none"),
        ({"generation": "v11", "what_if": ["magic"]}, "is not known"),
        ({"generation": "A", "what_if": ["no-tag-no-service"]}, "generation A cannot have what-if 'no-tag-no-service'"),
        ({"generation": "v11", "what_if": ["interleave"]}, "generation v11 cannot have what-if 'interleave'"),
        (
            {"generation": "v11", "what_if": ["one-untagged-per-group", "no-tag-no-service"]},
            "'no-tag-no-service' and 'one-untagged-per-group' contradict each other",
        ),
    ):
        with pytest.raises(AskedWrongly, match=text):
            setup(**wrong)
    assert setup("v11").quirks == applicable("v11") and not setup("A").quirks


def test_what_ifs() -> None:
    """Each alone; `test_policy_lab` has them all, with the judge."""
    assert play("v11 no-tag-no-service", f"{R}; add 0+4M 8M+4M/a").says == "answer 8M+4M"
    assert play("v11 one-untagged-per-group", f"{TWO}; release 0+4M").says == "give 0+4M"


def test_reset() -> None:
    """All is forgotten and nothing is sent; the device still holds it, and a new region finds it (B26)."""
    world = play("v11", f"{A2}; claim dax0.0 a; add 64M+4M ...; reset")
    assert world.says == "" and world.host == begin("v11").host
    again = play("v11", "region 0+1G", world)
    assert [one.start for one in again.host.extents] == [0, 8 << 20]
    assert {one.tag for one in again.host.extents} == {NULL_TAG}, "the device's list holds no tags here, as QEMU's"


def test_devices_come_and_go() -> None:
    """What no rule speaks of, and a kernel does: an empty device is not bound, a full or bound one not deleted."""
    world = play("v11", A2)
    for step, says in (
        ("drive dax0.0 kmem", "! ENXIO"),
        ("undrive dax0.0", "! ENODEV"),
        ("claim dax0.0 a; delete dax0.0", "! EBUSY"),
        ("claim dax0.0 a; drive dax0.0 kmem; drive dax0.0 kmem", "! EBUSY"),
        ("claim dax0.0 a; drive dax0.0 kmem; delete dax0.0", "! EBUSY"),
        ("delete dax0.0; create region0; delete dax0.0", ""),
        ("bind region0", "! EBUSY"),
        ("unbind region0; unbind region0", "! ENODEV"),
        ("make region1 8G+1G", "! EINVAL"),
    ):
        assert play("v11", step, world).says == says, step


def test_unknown_names() -> None:
    for step in ("release 0+4M @mem9", "bind region9", "claim dax9.9 0", "page region0 0 0"):
        with pytest.raises(AskedWrongly, match=r"has no|is no|no scan"):
            play("v11", f"{R}; {step}")


# ---- the time limit --------------------------------------------------------------------------------------------------


def test_slack_of_the_timer() -> None:
    """B3: between 20 s and 22.1 s the timer may have fired or not; both are permitted, and nothing else."""
    chained = play("v11 lazy", f"{R}; add 0+4M ...")
    for seconds, ways in (("19.9", 1), ("20", 2), ("22", 2), ("22.1", 1), ("30", 1)):
        world = play("v11 lazy", f"tick {seconds}", chained)
        assert len(world.permitted) == ways, seconds
    within = play("v11 lazy", "wait 21; add 8M+4M", chained)
    said = {tuple(spell(command) for command in choose(within.permitted, seed)[1][:-2]) for seed in range(20)}
    assert said == {("answer none", "answer 8M+4M"), ("answer 0+4M 8M+4M",)}
    for seed in range(20):
        way, commands = choose(within.permitted, seed)
        assert hold(within.permitted, commands) == (way, departures(way))


# ---- given answers ---------------------------------------------------------------------------------------------------


class Wrong(NamedTuple):
    """What a host sends that it must not, and the clause that convicts it."""

    clause: str
    options: str
    given: str
    step: str
    sent: str


_WRONG = """\
B5.survivors | v11 | $R | add 0+4M/a 8M+4M/a | answer 0+4M; clear; events
B5.survivors | v11 | $R | add 0+4M/a | answer none; clear; events
B5.survivors | v11 | $R | add 0+4M/a | clear; events
B5.none | v11 | $R | add 1M+4M | clear; events
B5.only | v11 | $R | add 0+4M/a | answer 0+4M 16M+4M; clear; events
B5.only | v11 | $R | add 0+4M/a | answer 0+2M 0+4M; clear; events
B5.order | v11 | $R | add 0+4M/a 8M+4M/a | answer 8M+4M 0+4M; clear; events
B5.order | v11 -Q7 | $R | add 0+4M/a 8M+4M 16M+4M/a | answer 0+4M 16M+4M 8M+4M; clear; events
B5.pages | v11 small | $R | add $5 | answer $5; clear; events
B6.live | v11 | $A2 | add 64M+4M/a | answer 64M+4M; clear; events
B7.dense | v11 sharable | $R | add 0+4M/a#1 | answer 0+4M; clear; events
B8.partition | v11 | $R | add 0+4M/a 4G+4M/a | answer 0+4M; clear; events
B9.misaligned | v11 | $R | add 1M+4M | answer 1M+4M; clear; events
B10.partition | v11 | $R | add 4G+4M | answer 4G+4M; clear; events
B11.sequence | v11 | $R | add 0+4M/a#1 8M+4M/a | answer 8M+4M 0+4M; clear; events
B12.region | v11 | $R | add 2G+4M | answer 2G+4M; clear; events
B13.scan | v11 | $BOUND | add 0+4M | answer 0+4M; clear; events
B14.decoder | v11 | $R | add 1022M+4M | answer 1022M+4M; clear; events
B15.overlap | v11 | $A2 | add 2M+4M | answer 2M+4M; clear; events
B17.left-out | v11 | $R | add 0+4M/a 2M+4M/a | answer 0+4M 2M+4M; clear; events
B17.left-out | v11 | $R | add 0+4M/a 2M+4M/a | give 0+4M; answer none; clear; events
B2.close | v11 | $R | add 0+4M ... | answer 0+4M; clear; events
B3.early | v11 | $R; add 0+4M ... | tick 19 | answer none
B3.early | v11 | $R; add $100 ...; add 512M+2M | tick 19 | answer none
B3.expiry | v11 | $R; add 0+4M ... | tick 20 | -
B3.expiry | v11 | $R; add 0+4M ... | tick 20 | answer 0+4M
B4.silent | v11 | $R; add $100 ... | add 512M+2M | answer none; clear; events
B19.acknowledge | v11 | $A2 | release 2G+4M | clear; events
B20.tag | v11 | $A2 | release 0+4M/b | give 0+4M; clear; events
B20.inside | v11 | $A2 | release 2M+8M/a | give 2M+8M; clear; events
B22.in-use | v11 | $A2; claim dax0.0 a | release 0+4M/a | give 0+4M; clear; events
B23.whole | v11 | $A2 | release 0+4M/a | give 0+4M; clear; events
B23.each | v11 | $A2 | release 0+4M/a | give 8M+4M; give 0+4M; clear; events
B23.each | v11 | $A2 | release 0+4M/a | give 0+4M 8M+4M; clear; events
B26.unanswered | v11 | held 0+4M/a; $BOUND | page region0 1 0 0+4M/a | answer 0+4M
B32.newest | v11 | $A2 | unbind region0 | give 0+4M; give 8M+4M
B32.all | v11 | $A2 | unbind region0 | give 8M+4M
L1.before-clear | v11 | $R | add 0+4M/a | clear; answer 0+4M; events
L1.clears | v11 | $R | add 0+4M/a | answer 0+4M; events
L1.clears | v11 | $R | add 0+4M/a | answer 0+4M; clear 7; events
L1.until-empty | v11 | $R | add 0+4M/a | answer 0+4M; clear
L1.only | v11 | $A2 | tick 1 | give 0+4M
L5.forced | v11 | $A2 | forced 0+4M/a | give 0+4M; clear; events
L2.kinds | v11 | $A2 | kind3 0+4M/a | answer none; clear; events
"""
WRONG = [Wrong(*row) for row in table(_WRONG, {**SHORT, "$100": chain(100), "$5": chain(5)})]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: f"{wrong.clause}-{wrong.options}-{wrong.sent}")
def test_wrong_answer(wrong: Wrong) -> None:
    """A host that breaks a clause is convicted by its name; what the model chooses is not."""
    world = play(wrong.options, f"{wrong.given}; {wrong.step}")
    _, found = hold(world.permitted, told(wrong.sent, world))
    assert wrong.clause in [one.clause for one in found if one.outcome == "fail"], found
    assert not [one for one in hold(world.permitted, world.commands)[1] if one.outcome == "fail"]


def test_blind_witness() -> None:
    """A witness that sees no 0101h and no 0100h judges the answer alone."""
    world = play("v11", f"{R}; add 0+4M/a")
    assert hold(world.permitted, told("answer 0+4M", world), seen=("answer", "give_back"))[1] == departures(
        played(world)
    )


# ---- properties ------------------------------------------------------------------------------------------------------

TAGS = ["", "/a", "/b", "/c"]
extents = st.builds(
    lambda at, length, tag, sequence: f"{at}M+{length}M{tag}{sequence}",
    st.integers(0, 40).map(lambda number: number * 2) | st.sampled_from([1, 1022, 2048, 4096]),
    st.sampled_from([2, 4, 6, 1]),
    st.sampled_from(TAGS),
    st.sampled_from(["", "", "", "", "#1", "#2"]),
)
chains = st.lists(extents, min_size=1, max_size=5).map(" ".join)
steps = st.one_of(
    st.builds("add {}".format, chains),
    st.builds("add {} ...".format, chains),
    st.builds("release {}".format, chains),
    st.builds("forced {}".format, chains),
    st.builds("tick {}".format, st.sampled_from(["1", "19", "20"])),
    st.builds("claim dax0.{} {}".format, st.integers(0, 1), st.sampled_from(["0", "a", "b", "x"])),
    st.builds("size dax0.0 {}".format, st.sampled_from(["0", "4M", "1M"])),
    st.sampled_from(["create region0", "drive dax0.0 kmem", "undrive dax0.0", "unload", "load", "pages"]),
)
plays = st.tuples(
    st.sampled_from(
        ["v11", "v11 sharable", "v10", "v10 sharable", "B-rfc", "draft", "v11 -Q1 -Q2 -Q6 -Q7", "v11 lazy", "v11 -Q3"]
    ),
    st.lists(steps, max_size=12),
    st.integers(0, 1 << 32),
)


def invariants(world: World, checked: bool) -> None:
    """What must hold in any state. `checked`: the DAX driver was always there, which alone sees a clash in a group."""
    host = world.host
    for region in host.regions:
        mine = sorted([(one.start, one.start + one.length) for one in host.in_region(region.name)])
        assert not checked or all(one[1] <= other[0] for one, other in pairwise(mine))
        assert 0 <= host.available(region.name) <= sum(end - start for start, end in mine)
        assert len({one.id for one in host.in_region(region.name)}) == len(mine)
    pieces = [(piece.age, piece.length) for device in host.devices for piece in device.mapped]
    lengths = {one.age: one.length for one in host.extents}
    assert len({age for age, _ in pieces}) == len(pieces) or host.setup.generation.claim == "size"
    if host.setup.generation.claim == "uuid":
        assert all(lengths[age] == length for age, length in pieces), "B30.one"
    groups = {(one.tag, one.group) for one in host.extents if one.tag != NULL_TAG}
    if host.setup.generation.tags == "host":
        assert len(groups) == len({tag for tag, _ in groups}), "B6.live"


@settings(max_examples=300, deadline=None)
@given(plays)
def test_any_play(played_: tuple[str, list[str], int]) -> None:
    """Whatever happens: no gate is passed by what it drops, DEV-6 and DEV-7 hold but where a rule says otherwise."""
    options, script, seed = played_
    world = play(options, f"{R}; create region0")
    for step in script:
        before = world
        if step.split()[0] in ("claim", "size", "drive", "undrive") and step.split()[1] not in [
            device.name for device in world.host.devices
        ]:
            continue
        world = do(world, step)
        if world is before or not world.permitted:
            continue
        words = step.split()
        offers = tuple([extent(word) for word in words[1:] if "+" in word]) if words[0] == "add" else ()
        for way in world.permitted:
            assert set(way.judged) <= set(CLAUSES)
            for expected in way.plan:
                refused = {pair for pair, _ in expected.refused}
                assert not refused & set(expected.ranges), "a gate's refusal is named"
        way, commands = choose(world.permitted, seed)
        assert not [one for one in hold(world.permitted, commands)[1] if one.outcome == "fail"]
        keeps_device_rules(before, offers, way, commands)
        invariants(world, "unload" not in script)


def keeps_device_rules(
    before: World, offers: tuple[Extent, ...], way: model.Decision, commands: tuple[Command, ...]
) -> None:
    """DEV-6: what was offered, and disjoint from what is held. DEV-7: what is held. But where a rule breaks it."""
    held = {(one.start, one.length) for one in before.host.extents}
    staged = {(one.start, one.length) for memdev in before.host.memdevs for one in memdev.staged}
    staged |= {(one.start, one.length) for memdev in before.host.memdevs for part in memdev.deferred for one in part}
    offered = staged | {(one.start, one.length) for one in offers}
    for command in commands:
        if command.f == "give_back" and not {"B17.released", "B19.acknowledge", "B20.unmatched"} & set(way.judged):
            assert set(command.ranges) <= held, "DEV-7.held"
        if command.f == "answer" and not {"B26.answered"} & set(way.judged):
            assert set(command.ranges) <= offered, "DEV-6.inside"
        if command.f == "answer" and not {"B26.answered", "B15.duplicate"} & set(way.judged):
            for start, length in command.ranges:
                meets = [at for at, size in held - _given(commands) if at < start + length and start < at + size]
                assert length and not meets, "DEV-6.accepted"


def _given(commands: tuple[Command, ...]) -> set[tuple[int, int]]:
    return {pair for command in commands if command.f == "give_back" for pair in command.ranges}


@given(st.integers(0, 1 << 64), st.integers(0, 100))
def test_same_seed_same_choice(seed: int, at: int) -> None:
    world = play("v11 lazy", f"{R}; add 0+4M ...; tick 21")
    assert choose(world.permitted, seed) == choose(world.permitted, seed)


def test_extents_of_a_page_are_not_recovered_twice() -> None:
    """B26.all: a second region's scan meets the first one's extents: duplicates, or live; nothing is sent."""
    world = play("v11", "held 0+4M/a 8M+4M 1032M+4M; region 0+1G; region 1G+1G")
    assert [(one.region, one.start >> 20) for one in world.host.extents] == [
        ("region0", 0),
        ("region0", 8),
        ("region1", 1032),
    ]
    assert world.held == (extent("0+4M/a"), extent("8M+4M"), extent("1032M+4M"))


def test_cause_of_a_history() -> None:
    """A record as a history holds it becomes an Event; one that did not parse is of another UUID."""
    record = {
        "handle": 3, "type": 0, "more": True, "validity": 1, "host_id": 0, "region": 255, "dpa": 4096, "length": 8192,
        "tag": "aa" * 16, "sequence": 2, "available_extents": 1, "available_tags": 1,
    }  # fmt: skip
    assert model.event_of(record) == Event(0, 4096, 8192, b"\xaa" * 16, 2, True, 3)
    assert not model.event_of({"raw": "00", "error": "x"}).known
    world = cause(begin("v11"), Records("mem0", (model.event_of({"raw": "", "error": ""}),)))
    assert "L2.foreign" in world.judged
    assert Extent(4096, 8192, b"\xaa" * 16, 2) == model.event_of(record).extent
