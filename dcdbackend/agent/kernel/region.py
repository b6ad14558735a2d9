"""Regions: made over a DC partition or static capacity by sysfs, and destroyed.

The order is the one that v11 was seen to take (kernel.md): name, granularity, ways, the decoder's mode and DPA size,
the region's size and target, commit, bind. What the kernel refuses ends it; what was begun is then taken back, as far
as the kernel lets. No interleaving: one target, one way, 256 bytes.
"""

from __future__ import annotations

import time
from typing import Any

from ...errors import AskedWrongly
from .files import Files, KernelRefused, one_name
from .survey import CXL, dax_devices, dax_region, generation_of, memdev, mode_of, named, root_decoders

Value = dict[str, Any]

DRIVER = "/sys/bus/cxl/drivers/cxl_region"
DAX_DRIVER = "/sys/bus/cxl/drivers/cxl_dax_region"
GRANULARITY, WAYS = 256, 1
APPEAR_S = 2.0
SEED_S = 0.5
_STEP_S = 0.005
_FREE = ("", "none")


class Writing:
    """Writes, each kept: what a scenario shows, and what has to be taken back."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.steps: list[list[str]] = []

    def __call__(self, path: str, value: object) -> None:
        """Errors: KernelRefused."""
        self.steps.append([path, str(value)])
        self.files.write(path, str(value))

    def may(self, path: str, value: object) -> bool:
        """The same where a refusal does not matter; whether it was taken."""
        try:
            self(path, value)
        except KernelRefused:
            return False
        return True


def find_memdev(files: Files, request: Value) -> Value:
    """The memory device of a request: by `serial` (a number) or `memdev` (its name). Errors: AskedWrongly."""
    all_of_them = [memdev(files, name) for name in named(files, CXL, "mem")]
    for one in all_of_them:
        if "serial" in request and one["serial"] == request["serial"] and type(request["serial"]) is int:
            return one
        if "serial" not in request and one["name"] == request.get("memdev"):
            return one
    asked = f"serial {request['serial']!r}" if "serial" in request else f"memdev {str(request.get('memdev'))[:40]!r}"
    there = ", ".join(f"{one['name']} ({one['serial']})" for one in all_of_them) or "none"
    raise AskedWrongly(f"{asked}; the kernel has {there}: give one of these, or load the CXL drivers first")


def make(files: Files, request: Value, writing: Writing) -> Value:
    """{"serial" | "memdev", "size", "mode", "decoder", "root", "bind"}: a region, committed and bound.

    mode None: the DC mode that this kernel has; "ram" is static capacity. `size` None: the whole partition. Errors:
    AskedWrongly (nothing written), KernelRefused.
    """
    device = find_memdev(files, request)
    mode = request.get("mode") or mode_of(files)
    if mode is None:
        evidence = generation_of(files)["evidence"][-1]
        raise AskedWrongly(f'this kernel makes no DC region ({evidence}); give "mode": "ram" for static capacity')
    one_name(mode, "mode")
    size = request.get("size") or device["partitions"].get(mode)
    if type(size) is not int or not 0 < size < 1 << 63:
        raise AskedWrongly(f"size {str(size)[:40]}; give bytes: {device['name']} has {device['partitions']}")
    root = request.get("root") or device["root"] or _only(root_decoders(files), f"windows for {device['name']}")
    decoder = request.get("decoder") or _free(files, device)
    create = f"{CXL}/{one_name(root, 'root')}/{_attribute(mode)}"
    region = files.read(create)
    if region is None:
        raise KernelRefused("ENOENT", create)
    one_name(region, f"what {create} reads")
    writing(create, region)
    place = f"{CXL}/{region}"
    try:
        _fill(writing, place, f"{CXL}/{one_name(decoder, 'decoder')}", mode, size)
        if request.get("bind", True):
            bind(files, region, writing)
    except KernelRefused:
        _take_back(files, region, root, decoder)
        raise
    return {**describe(files, region, decoder), "steps": writing.steps}


def _fill(writing: Writing, place: str, decoder: str, mode: str, size: int) -> None:
    """The region's and the decoder's attributes, in the order that is known to work, and the commit."""
    region = place.rpartition("/")[2]
    if mode == "pmem":
        writing(f"{place}/uuid", _uuid(region, size))
    writing(f"{place}/interleave_granularity", GRANULARITY)
    writing(f"{place}/interleave_ways", WAYS)
    writing(f"{decoder}/mode", mode)
    writing(f"{decoder}/dpa_size", f"0x{size:x}")
    writing(f"{place}/size", f"0x{size:x}")
    writing(f"{place}/target0", decoder.rpartition("/")[2])
    writing(f"{place}/commit", 1)


def bind(files: Files, region: str, writing: Writing) -> None:
    """Bind a committed region, and wait until what appears with it is there. Errors: KernelRefused."""
    if files.link(f"{CXL}/{region}/driver") is None:
        writing(f"{DRIVER}/bind", region)
    if files.exists(DAX_DRIVER):
        _until(lambda: dax_region(files, region) is not None)


def settle(files: Files, region: str) -> None:
    """Wait, bounded, for a bound region's first DAX device: its driver makes one in its probe, unless that fails."""
    if dax_region(files, region) is not None and files.exists(DAX_DRIVER) and not files.root:
        _until(lambda: bool(dax_devices(files, region)), SEED_S)


def describe(files: Files, region: str, decoder: str | None) -> Value:
    """{"region", "dax_region", "decoder", "hpa", "start", "length", "mode", "dax": names}.

    None for what is not shown.
    """
    settle(files, region)
    place = f"{CXL}/{decoder}"
    return {
        "region": region,
        "dax_region": dax_region(files, region),
        "decoder": decoder,
        "hpa": files.number(f"{CXL}/{region}/resource"),
        "start": files.number(f"{place}/dpa_resource"),
        "length": files.number(f"{CXL}/{region}/size"),
        "mode": files.glance(f"{CXL}/{region}/mode"),
        "dax": dax_devices(files, region),
    }


def destroy(files: Files, request: Value, writing: Writing) -> Value:
    """{"region"}: unbound, decommitted, deleted; its decoder gives its DPA back.

    Errors: AskedWrongly, KernelRefused.
    """
    region = one_name(request.get("region"), "region")
    place = f"{CXL}/{region}"
    if not files.exists(place):
        there = ", ".join(named(files, CXL, "region")) or "none"
        raise AskedWrongly(f"no region {region!r}; there is {there}")
    decoder, root = decoder_of(files, region), root_of(files, region)
    unbind(files, region, writing)
    writing(f"{place}/commit", 0)
    writing(f"{CXL}/{root}/delete_region", region)
    if decoder is not None:
        writing.may(f"{CXL}/{decoder}/dpa_size", 0)
    gone = _until(lambda: not files.exists(place)) if not files.root else True
    return {"gone": gone, "decoder": decoder, "steps": writing.steps}


def unbind(files: Files, region: str, writing: Writing) -> None:
    """Take the region from its driver, where it has one. Errors: KernelRefused."""
    if files.link(f"{CXL}/{region}/driver") is not None:
        writing(f"{DRIVER}/unbind", region)


def decoder_of(files: Files, region: str) -> str | None:
    """The endpoint decoder of a region (its only target)."""
    target = files.glance(f"{CXL}/{region}/target0")
    return target if target and target not in _FREE else None


def root_of(files: Files, region: str) -> str:
    """The root decoder that a region belongs to: the one above it, else the only one. Errors: AskedWrongly."""
    above = (files.leads_to(f"{CXL}/{region}") or "").rpartition("/")[0].rpartition("/")[2]
    roots = root_decoders(files)
    return above if above in roots else _only(roots, f"windows for {region}")


def _take_back(files: Files, region: str, root: str, decoder: str) -> None:
    """Undo what was begun, as far as the kernel lets: a half region would be in the way of the next try."""
    undo = Writing(files)
    place = f"{CXL}/{region}"
    undo.may(f"{place}/commit", 0)
    undo.may(f"{place}/target0", "")
    undo.may(f"{CXL}/{root}/delete_region", region)
    undo.may(f"{CXL}/{decoder}/dpa_size", 0)


def _attribute(mode: str) -> str:
    return "create_dc_region" if mode[:2] == "dc" and mode[2:].isdigit() else f"create_{mode}_region"


def _free(files: Files, device: Value) -> str:
    """The first endpoint decoder of a device that has no region. Errors: AskedWrongly."""
    for decoder in device["decoders"]:
        if not files.number(f"{CXL}/{decoder}/dpa_size") and files.glance(f"{CXL}/{decoder}/region") in (None, *_FREE):
            return str(decoder)
    raise AskedWrongly(
        f"{device['name']} has no endpoint decoder that is free, of {', '.join(device['decoders']) or 'none'}; "
        "destroy a region, or see in the kernel's log why its port did not come up"
    )


def _only(found: list[str], what: str) -> str:
    if len(found) != 1:
        raise AskedWrongly(f'{len(found)} {what}: {", ".join(found) or "none"}; name one as "root"')
    return found[0]


def _uuid(region: str, size: int) -> str:
    """A UUID for a persistent region: it wants one, and any will do."""
    digits = f"{sum(region.encode()):08x}{size:024x}"[:32]
    return "-".join((digits[:8], digits[8:12], "4" + digits[13:16], "8" + digits[17:20], digits[20:32]))


def _until(true: Any, timeout_s: float = APPEAR_S) -> bool:
    """Wait for something to be so; whether it is."""
    ends = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > ends:
            return False
        time.sleep(_STEP_S)
    return True
