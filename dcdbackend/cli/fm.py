"""`dcd fm NAME ...`: the fabric manager's way to a launched guest: what it reads, what it injects, with tags, as bytes.

It needs the topology switch and QEMU 11.1 or newer; else there is one line, exit 3. What is offered and asked back is
in the guest's history like that of any other way, and 5603h is read there as a witness; the other questions change
nothing and are not recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from ..bench import parse_span
from ..errors import AskedWrongly, Refused
from ..units import format_address, format_size, parse_size
from . import capacity, drive, hexdump, out

MOST_ROWS = 64

app = typer.Typer(
    help="The fabric manager's way in: what it reads of switch and devices, and what it injects, with tags.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Host = Annotated[
    int | None, typer.Option("--host", metavar="ID", help="The host's id; 0 by default.", min=0, max=0xFFFF)
]
Raw = Annotated[
    str | None,
    typer.Option(
        "--raw", metavar="HEX", help="Send this payload as it is, sense or nonsense, and show what comes back."
    ),
]
Dpa = Annotated[bool, typer.Option("--dpa", help="The extents are DPA+LENGTH, not OFFSET+LENGTH in a region.")]
Extents = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SIZE|OFFSET+LENGTH[:SEQUENCE[:TAG]]...]",
        help="256M: where there is room; 0+128M:0 512M+64M:1: one chain, with sequence numbers, maybe tags.",
    ),
]


@app.callback()
def fm(name: drive.Name) -> None:
    """A group whose first word is the guest."""


@app.command("info")
def info(ctx: typer.Context, as_json: out.Json = False) -> int:
    """The switch, its ports, which of them leads to which device, and what each device serves.

    By 0001h, 5100h, 5101h and 5600h. JSON: {"switch": {"payload_bytes", "identify", "device"}, "ports": [{"port",
    "configuration", "connected", "link", "device", "state"}], "devices": [{"device", "port", "identify", "info",
    "capacity", "selection", "removal"}]}, the structures as `dcd decode --json` has their values.
    """
    name = _name(ctx)
    found = drive.call(name, "fm_info")
    if as_json:
        out.data(found)
        return 0
    switch = found["switch"]
    says, who = switch["device"], switch["identify"]
    out.line(
        f"switch: vendor {who['vendor_id']:04x}h, device {who['device_id']:04x}h; {says['physical_port_count']} ports, "
        f"{says['vcs_count']} virtual switches, {says['vppb_count']} vPPBs, {says['bound_vppb_count']} bound; "
        f"messages up to {format_size(switch['payload_bytes'])}"
    )
    table = _table("port", "it is", "connected", "link", "device")
    for port in found["ports"]:
        connected = port["connected"] if port["device"] else ""
        table.add_row(str(port["port"]), port["configuration"], connected, port["link"], port["device"] or "")
    out.table(table)
    for device in found["devices"]:
        told = device["info"]
        hosts, regions = told["host_count"], told["region_count"]
        out.line(
            f"{device['device']}: port {device['port']}, serial 0x{device['identify']['serial_number']:x}; "
            f"{hosts} host{_s(hosts)}, {regions} region{_s(regions)}, {format_size(device['capacity'])}; "
            f"selection {', '.join(device['selection']) or 'none'}; removal {', '.join(device['removal']) or 'none'}"
        )
    out.following("fm", name, "regions")
    return 0


@app.command("regions")
def regions(ctx: typer.Context, device: drive.Device = None, host: Host = None, as_json: out.Json = False) -> int:
    """The device's regions as the fabric manager sees them for a host (5601h).

    Exit: 1 the device refused the question. JSON: {"device", "host_id", "regions": [{"region", "base", "length",
    "decode_length", "block_size", "attributes", "sanitize"}], "supported_extents", "available_extents",
    "supported_tags", "available_tags"}.
    """
    name = _name(ctx)
    found = drive.call(name, "fm_regions", device=device, host_id=host)
    if as_json:
        out.data(found)
        return 0
    table = _table("region", "base", "length", "decode length", "block", "attributes", "sanitize")
    for one in found["regions"]:
        table.add_row(
            str(one["region"]),
            format_address(one["base"]),
            *[format_size(one[key]) for key in ("length", "decode_length", "block_size")],
            f"{one['attributes']:02x}h",
            "on release" if one["sanitize"] else "no",
        )
    out.table(table)
    for what in ("extents", "tags"):
        out.line(f"{what}: {found[f'available_{what}']} available of {found[f'supported_{what}']}")
    out.following("fm", name, "extents", *_of(device))
    return 0


@app.command("extents")
def extents(
    ctx: typer.Context,
    device: drive.Device = None,
    host: Host = None,
    page: Annotated[int | None, typer.Option(help="How many extents a question; 50 by default.", min=1)] = None,
    as_json: out.Json = False,
) -> int:
    """What a host has accepted of the device, by the device's own list (5603h); the host is not asked.

    Exit: 1 the device refused the question. JSON: {"device", "host_id", "extents": [{"dpa", "length", "tag",
    "sequence"}]}.
    """
    name = _name(ctx)
    found = drive.call(name, "fm_extents", device=device, host_id=host, page=page)
    if as_json:
        out.data(found)
        return 0
    held = found["extents"]
    if held:
        table = _table("DPA", "length", "sequence", "tag")
        for one in held[:MOST_ROWS]:
            tag = one["tag"] if one["tag"].strip("0") else ""
            table.add_row(format_address(one["dpa"]), format_size(one["length"]), str(one["sequence"]), tag)
        out.table(table)
    if len(held) > MOST_ROWS:
        out.line(f"and {len(held) - MOST_ROWS} more")
    whole = format_size(sum(one["length"] for one in held))
    out.line(f"host {found['host_id']} holds {len(held)} extent{_s(len(held))}, {whole} of {found['device']}")
    if held:
        first = f"{format_address(held[0]['dpa'])}+{format_size(held[0]['length'])}"
        out.following("fm", name, "release", "--dpa", first, *_of(device))
    else:
        out.following("fm", name, "add", "256M", *_of(device))
    return 0


@app.command("add")
def add(
    ctx: typer.Context,
    what: Extents = None,
    region: capacity.Region = None,
    device: drive.Device = None,
    tag: capacity.Tag = None,
    dpa: Dpa = False,
    host: Host = None,
    raw: Raw = None,
    timeout: capacity.Timeout = None,
    as_json: out.Json = False,
) -> int:
    """Offer capacity by the FM-API (5604h), as one chain, and wait for the host's answer.

    Exit: 0 it was answered, with refuse as well; 1 the device refused the offer; 4 no answer in time. JSON: as `dcd
    add`. With --raw nothing is waited for, and 0 says only that the device took it: {"device", "opcode", "sent": hex,
    "rc", "code", "by": device|switch, "answer": hex}.
    """
    name = _name(ctx)
    if raw is not None:
        _alone(what, region=region, tag=tag, dpa=dpa, host=host, timeout=timeout)
        return _raw(name, "add", device, raw, as_json)
    if not what:
        raise AskedWrongly("say what to offer: a size, OFFSET+LENGTH extents, or --raw HEX")
    wanted = _wanted(name, device, region, what, dpa)
    found = drive.call(name, "add", **wanted, device=device, tag=tag, host_id=host, timeout_s=timeout, via="fm")
    code = capacity.UNANSWERED if found["outcome"] == "unanswered" else 0
    if as_json:
        out.data(found)
        return code
    capacity.tell_offer(found)
    out.following("fm", name, "extents", *_of(device))
    return code


@app.command("release")
def release(
    ctx: typer.Context,
    what: Extents = None,
    region: capacity.Region = None,
    device: drive.Device = None,
    tag: capacity.Tag = None,
    dpa: Dpa = False,
    host: Host = None,
    forced: Annotated[bool, typer.Option("--forced", help="Forced removal: the host is not waited for.")] = False,
    sanitize: Annotated[bool, typer.Option("--sanitize", help="Sanitize what is released.")] = False,
    raw: Raw = None,
    timeout: capacity.Timeout = None,
    as_json: out.Json = False,
) -> int:
    """Ask the host by the FM-API (5605h) to give capacity back, and wait for what it does.

    Exit: 0 it responded; 1 the device refused the request; 4 no response in time. JSON: as `dcd release`. With --raw:
    as `dcd fm NAME add`.
    """
    name = _name(ctx)
    if raw is not None:
        _alone(what, region=region, tag=tag, dpa=dpa, host=host, timeout=timeout, forced=forced, sanitize=sanitize)
        return _raw(name, "release", device, raw, as_json)
    if not what:
        raise AskedWrongly("say what to release: a size, OFFSET+LENGTH extents, or --raw HEX")
    wanted = {**_wanted(name, device, region, what, dpa), "forced": forced, "sanitize": sanitize}
    found = drive.call(name, "release", **wanted, device=device, tag=tag, host_id=host, timeout_s=timeout, via="fm")
    code = capacity.UNANSWERED if found["outcome"] == "unanswered" else 0
    if as_json:
        out.data(found)
        return code
    capacity.tell_release(found)
    out.following("fm", name, "extents", *_of(device))
    return code


@app.command("set-region")
def set_region(
    ctx: typer.Context,
    region: Annotated[int, typer.Argument(help="The DC region, 0 onwards.", min=0, max=255)],
    block_size: Annotated[str, typer.Argument(metavar="BLOCK_SIZE", help="The size of its blocks, like 2M.")],
    sanitize: Annotated[bool, typer.Option("--sanitize", help="Sanitize whatever is released from it.")] = False,
    device: drive.Device = None,
    as_json: out.Json = False,
) -> int:
    """Set a region up anew (5602h). Exit: 1 the device refused it. JSON: {"device", "region", "block_size",
    "sanitize"}."""
    name = _name(ctx)
    size = parse_size(block_size, what="block size")
    found = drive.call(name, "set_region", region=region, block_size=size, sanitize=sanitize, device=device)
    if as_json:
        out.data(found)
        return 0
    how = f"{format_size(found['block_size'])} blocks{', sanitized on release' if found['sanitize'] else ''}"
    out.line(f"region {found['region']} of {found['device']} is set up: {how}")
    out.following("fm", name, "regions", *_of(device))
    return 0


# -- what was typed ----------------------------------------------------------------------------------------------------


def _name(ctx: typer.Context) -> str:
    """The guest, which stands before the command."""
    assert ctx.parent is not None
    return str(ctx.parent.params["name"])


def _wanted(name: str, device: str | None, region: int | None, what: Sequence[str], dpa: bool) -> dict[str, Any]:
    """A size or extents, and their region. Errors: AskedWrongly, before anything is sent."""
    sizes = [text for text in what if "+" not in text]
    if sizes and (len(what) > 1 or dpa):
        beside = "--dpa" if dpa else "others"
        raise AskedWrongly(f"{sizes[0]!r} beside {beside}; give one size, or extents like 0+128M 512M+64M:1")
    if sizes:
        size = parse_size(sizes[0])
        if not size:
            raise AskedWrongly("size 0; give at least a block, like 2M")
        return {"size": size, "region": region}
    spans = [_span(text) for text in what]
    if not dpa:
        return {"extents": spans, "region": region}
    if region is not None:
        raise AskedWrongly("--region goes with OFFSET+LENGTH; a DPA says its region itself")
    index, base = _around(name, device, [start for start, *_ in spans])
    return {"extents": [[start - base, *rest] for start, *rest in spans], "region": index}


def _span(text: str) -> list[Any]:
    """`0+128M:1:TAG` as the supervisor takes it. Errors: AskedWrongly."""
    place, *more = text.split(":", 2)
    span = parse_span(place)
    if not more:
        return [span.offset_bytes, span.length_bytes]
    number, tag = more[0], more[1] if len(more) > 1 else None
    if not (number.isascii() and number.isdigit() and int(number) <= 0xFFFF):
        raise AskedWrongly(f"sequence {number!r} in {text!r}; write OFFSET+LENGTH:SEQUENCE with a number up to 65535")
    return [span.offset_bytes, span.length_bytes, tag, int(number)]


def _around(name: str, device: str | None, starts: Sequence[int]) -> tuple[int, int]:
    """The region that all these DPAs lie in, and its base. Errors: AskedWrongly."""
    wanted = device or "mem0"
    devices = {one["name"]: one for one in drive.call(name, "info")["devices"]}
    if wanted not in devices:
        raise AskedWrongly(f"no device {wanted!r}; there is {', '.join(devices)}")
    found = devices[wanted]["regions"]
    for one in found:
        if all(one["base"] <= start < one["base"] + one["length"] for start in starts):
            return one["index"], one["base"]
    places = ", ".join(f"{one['index']}: {format_address(one['base'])}+{format_size(one['length'])}" for one in found)
    told = " ".join(format_address(start) for start in starts)
    raise AskedWrongly(f"DPA {told} in no one region of {wanted} ({places}); a chain lies in one, --raw sends any")


def _alone(what: Sequence[str] | None, **others: Any) -> None:
    """--raw is the whole payload. Errors: AskedWrongly."""
    given = ["extents"] if what else []
    given += [f"--{name}" for name, value in others.items() if value not in (None, False)]
    if given:
        raise AskedWrongly(f"--raw is the whole payload; leave {given[0]} out")


def _raw(name: str, f: str, device: str | None, text: str, as_json: bool) -> int:
    """Send bytes as they are, and show what came back."""
    try:
        payload = hexdump.read(text)
    except AskedWrongly as error:
        said = error.message.removeprefix("line 1: ").replace("for bytes as they are, add --binary", "give hex digits")
        raise AskedWrongly(f"--raw: {said}") from None
    found = drive.call(name, "fm_raw", f=f, payload=payload.hex(), device=device)
    code = Refused.exit_code if found["rc"] else 0
    if as_json:
        out.data(found)
        return code
    out.line(f"{found['opcode']} to {found['device']}, {len(payload)} bytes: the {found['by']} says {found['code']}")
    for row in hexdump.rows(bytes.fromhex(found["answer"]), 0):
        out.line(row)
    if found["by"] == "device" and found["answer"]:
        out.following("decode", "--as", "CciMessage", found["answer"])
    else:
        out.following("fm", name, "info")
    return code


# -- small things ------------------------------------------------------------------------------------------------------


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True)
    return table


def _of(device: str | None) -> Sequence[str]:
    """The option that names the device again, for the next command."""
    return () if device is None else ("--device", device)


def _s(count: int) -> str:
    return "" if count == 1 else "s"
