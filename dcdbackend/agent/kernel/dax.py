"""DAX devices: made, claimed by a tag or without, sized, bound to device_dax or kmem, onlined, destroyed.

Each is one file of sysfs (CXL kernel series; rules A14, B27 to B31). What the kernel refuses is raised as it was
refused. Only `bind` does more than it was told, and tells it: a kernel whose drivers divide the devices by type wants
the device's name in `new_id` first (daxctl does the same).
"""

from __future__ import annotations

from typing import Any

from ...errors import AskedWrongly
from .files import Files, KernelRefused, one_name
from .region import Writing
from .survey import CXL, DAX, DAX_DRIVERS, dax_devices, dax_region, named

Value = dict[str, Any]

MEMORY = "/sys/devices/system/memory"
DRIVERS = ("device_dax", "kmem")
HOW = ("online", "online_movable", "online_kernel", "offline")
MOST_BLOCKS = 65536


def one(files: Files, request: Value) -> str:
    """The DAX device of a request. Errors: AskedWrongly for one that is not there."""
    name = one_name(request.get("dax"), "dax")
    if not files.exists(f"{DAX}/{name}"):
        there = ", ".join(named(files, DAX, "dax")) or "none"
        raise AskedWrongly(f"no DAX device {name!r}; there is {there}")
    return name


def create(files: Files, request: Value, writing: Writing) -> Value:
    """{"region"}: one more DAX device: {"dax"}. Errors: AskedWrongly, KernelRefused."""
    region = one_name(request.get("region"), "region")
    under = dax_region(files, region)
    if under is None:
        raise AskedWrongly(f"region {region!r} has no dax region; make it, and bind it, first")
    before = dax_devices(files, region)
    writing(f"{CXL}/{under}/dax_region/create", 1)
    new = [name for name in dax_devices(files, region) if name not in before]
    return {"dax": new[0] if new else None}


def delete(files: Files, request: Value, writing: Writing) -> Value:
    """{"dax"}: its name to its region's `delete`. Errors: AskedWrongly, KernelRefused."""
    name = one(files, request)
    for region in named(files, CXL, "region"):
        if name in dax_devices(files, region):
            writing(f"{CXL}/{dax_region(files, region)}/dax_region/delete", name)
            return {}
    raise AskedWrongly(f"{name} is under no region of the CXL bus")


def claim(files: Files, request: Value, writing: Writing) -> Value:
    """{"dax", "tag": 32 hex digits, "0", or any text, to see it refused}: {"size", "uuid"} afterwards.

    Errors: AskedWrongly, KernelRefused.
    """
    name, tag = one(files, request), request.get("tag")
    if not isinstance(tag, str) or len(tag) > 256 or "\0" in tag:
        raise AskedWrongly(f'tag {str(tag)[:40]!r}; give 32 hex digits, "0", or other text of at most 256 characters')
    writing(f"{DAX}/{name}/uuid", uuid_text(tag))
    return {"size": files.number(f"{DAX}/{name}/size"), "uuid": files.glance(f"{DAX}/{name}/uuid")}


def uuid_text(tag: str) -> str:
    """32 hex digits as a UUID; other text as it is."""
    digits = tag.lower()
    if len(digits) != 32 or digits.strip("0123456789abcdef"):
        return tag
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def resize(files: Files, request: Value, writing: Writing) -> Value:
    """{"dax", "size"}: {"size"} afterwards. Errors: AskedWrongly, KernelRefused."""
    name, size = one(files, request), request.get("size")
    if type(size) is not int or not 0 <= size < 1 << 64:
        raise AskedWrongly(f"size {str(size)[:40]!r}; give bytes, 0 and more")
    writing(f"{DAX}/{name}/size", size)
    return {"size": files.number(f"{DAX}/{name}/size")}


def bind(files: Files, request: Value, writing: Writing) -> Value:
    """{"dax", "driver"}: {"driver"} that it has then. Errors: AskedWrongly, KernelRefused."""
    name, driver = one(files, request), request.get("driver", "device_dax")
    if driver not in DRIVERS:
        raise AskedWrongly(f"driver {str(driver)[:40]!r}; there is {', '.join(DRIVERS)}")
    place = f"{DAX_DRIVERS}/{driver}"
    try:
        writing(f"{place}/bind", name)
    except KernelRefused as error:
        # "no such device" is what a driver says whose type the device is not; with the name in new_id it takes it
        if error.name != "ENODEV" or files.link(f"{DAX}/{name}/driver") is not None:
            raise
        writing(f"{place}/new_id", name)
        if files.link(f"{DAX}/{name}/driver") is None:
            writing(f"{place}/bind", name)
    return {"driver": files.link(f"{DAX}/{name}/driver")}


def unbind(files: Files, request: Value, writing: Writing) -> Value:
    """{"dax"}: from whichever driver has it. Errors: AskedWrongly, KernelRefused."""
    name = one(files, request)
    driver = files.link(f"{DAX}/{name}/driver")
    if driver is None:
        raise KernelRefused("ENODEV", f"{DAX}/{name}/driver/unbind", name)
    writing(f"{DAX_DRIVERS}/{driver}/unbind", name)
    writing.may(f"{DAX_DRIVERS}/{driver}/remove_id", name)
    return {"driver": driver}


def destroy(files: Files, request: Value, writing: Writing) -> Value:
    """{"dax", "delete": false}: offlined, unbound, size 0; with "delete" its name is gone too.

    Memory that does not go offline keeps the device: that is the kernel's refusal. Errors: AskedWrongly, KernelRefused.
    """
    name = one(files, request)
    driver = files.link(f"{DAX}/{name}/driver")
    if driver == "kmem":
        online(files, {"dax": name, "how": "offline"}, writing)
    if driver is not None:
        unbind(files, {"dax": name}, writing)
    if files.number(f"{DAX}/{name}/size") != 0:
        writing(f"{DAX}/{name}/size", 0)
    if request.get("delete"):
        delete(files, {"dax": name}, writing)
    return {"size": files.number(f"{DAX}/{name}/size")}


def online(files: Files, request: Value, writing: Writing) -> Value:
    """{"dax", "how"}: the memory blocks of a device bound to kmem: {"blocks": n, "changed": n, "states": [...]}.

    Errors: AskedWrongly (not bound to kmem; it has no block), KernelRefused.
    """
    name, how = one(files, request), request.get("how", "online_movable")
    if how not in HOW:
        raise AskedWrongly(f"how {str(how)[:40]!r}; there is {', '.join(HOW)}")
    if files.link(f"{DAX}/{name}/driver") != "kmem":
        raise AskedWrongly(f"{name} is not bound to kmem; bind it first")
    blocks = memory_blocks(files, name)
    changed = 0
    wanted = "offline" if how == "offline" else "online"
    for block in blocks:
        if files.glance(f"{MEMORY}/{block}/state") != wanted:
            writing(f"{MEMORY}/{block}/state", how)
            changed += 1
    states = sorted({files.glance(f"{MEMORY}/{block}/state") or "gone" for block in blocks})
    return {"blocks": len(blocks), "changed": changed, "states": states}


def memory_blocks(files: Files, name: str) -> list[str]:
    """The memory blocks that lie wholly in a device's mappings, and that are there."""
    size_text = files.glance(f"{MEMORY}/block_size_bytes")
    try:
        size = int(size_text or "0", 16)
    except ValueError:
        size = 0
    if not size:
        return []
    found = []
    for mapping in named(files, f"{DAX}/{name}", "mapping"):
        place = f"{DAX}/{name}/{mapping}"
        start, end = files.number(f"{place}/start"), files.number(f"{place}/end")
        if start is None or end is None:
            continue
        first, last = -(-start // size), (end + 1) // size
        found += [f"memory{at}" for at in range(first, min(last, first + MOST_BLOCKS))]
    return [block for block in found if files.exists(f"{MEMORY}/{block}")]
