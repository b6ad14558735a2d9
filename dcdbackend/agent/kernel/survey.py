"""What this kernel offers: the generation of its DCD, its memory devices, windows and drivers; what it lacks.

A generation is known by what sysfs offers, never by a version (rules.md): the attribute that creates a region over a
DC partition, the partition's own directory, decoder modes, the `uuid` of DAX devices. Where two generations look alike
until a region exists, that is said (`sure`). Nothing is written here, and nothing that is missing is an error.
"""

from __future__ import annotations

import os
from typing import Any

from .files import Files, natural

Value = dict[str, Any]

CXL = "/sys/bus/cxl/devices"
DAX = "/sys/bus/dax/devices"
DAX_DRIVERS = "/sys/bus/dax/drivers"
TRACING = "/sys/kernel/tracing"
EVENT = "events/cxl/cxl_dynamic_capacity"
TOOLS = ("cxl", "daxctl")
CONTROLS = ("/proc/dynamic_debug/control", "/sys/kernel/debug/dynamic_debug/control")

V11, V10, A_OR_RFC, EARLY, NONE = "v11", "v10", "A/B-rfc", "early", "none"
_NO_DCD = "no DC region can be made; boot a kernel with the DCD series (out of tree up to Linux 7.3), by --kernel"


def survey(files: Files) -> Value:
    """Everything that a session asks before it begins; see the parts below for their shapes."""
    roots = _roots(files)
    memdevs = [memdev(files, name) for name in named(files, CXL, "mem")]
    generation = generation_of(files)
    return {
        "generation": generation,
        "mode": mode_of(files),
        "memdevs": memdevs,
        "roots": roots,
        "regions": named(files, CXL, "region"),
        "dax_drivers": files.names(DAX_DRIVERS),
        "trace": files.exists(f"{TRACING}/{EVENT}"),
        "dynamic_debug": any(files.exists(path) for path in CONTROLS),
        "tools": {name: tool(files, name) for name in TOOLS},
        "missing": _missing(files, generation["found"], memdevs, roots),
        "kernel": os.uname().release if not files.root else files.glance("/proc/sys/kernel/osrelease"),
    }


def named(files: Files, directory: str, kind: str) -> list[str]:
    """The devices whose name is that and a number: mem0, region1, decoder0.0, dax0.0."""
    found = []
    for name in files.names(directory):
        rest = name.removeprefix(kind)
        if rest != name and rest.replace(".", "", 1).isdigit():
            found.append(name)
    return found


# ---- which generation ------------------------------------------------------------------------------------------------


def generation_of(files: Files) -> Value:
    """{"found", "sure", "evidence"}: by region attributes first, then partitions and modes, then uuid files."""
    evidence: list[str] = []
    modes = _modes(files, evidence)
    uuids = _uuids(files, evidence)
    if "dynamic_ram_1" in modes:
        return {"found": V11, "sure": True, "evidence": evidence}
    if "dynamic_ram_a" in modes:
        if uuids.get("writable"):
            return {"found": V10, "sure": True, "evidence": evidence}
        if "dynamic" in uuids:
            evidence.append("a DAX device of a DC region has no writable uuid; A or B-rfc: the user says which")
            return {"found": A_OR_RFC, "sure": True, "evidence": evidence}
        evidence.append("no DAX device of a DC region is there yet; if its uuid is writable, this is v10: ask again")
        return {"found": A_OR_RFC, "sure": False, "evidence": evidence}
    if modes:
        return {"found": EARLY, "sure": True, "evidence": evidence}
    evidence.append("no attribute that creates a DC region, no DC partition, no DC decoder mode")
    return {"found": NONE, "sure": bool(named(files, CXL, "decoder")), "evidence": evidence}


def mode_of(files: Files) -> str | None:
    """The mode that a DC region's decoder takes: the newest that is offered; None where there is none."""
    modes = _modes(files, [])
    return next((mode for mode in ("dynamic_ram_1", "dynamic_ram_a") if mode in modes), "dc0" if modes else None)


def _modes(files: Files, evidence: list[str]) -> set[str]:
    """Modes of DC regions, each with the file that shows it."""
    found: set[str] = set()

    def saw(mode: str, what: str) -> None:
        found.add(mode)
        evidence.append(what)

    for decoder in named(files, CXL, "decoder"):
        for name in files.names(f"{CXL}/{decoder}"):
            if name.startswith("create_dynamic_ram_") and name.endswith("_region"):
                saw(name.removeprefix("create_").removesuffix("_region"), f"{decoder}/{name}")
            elif name == "create_dc_region":
                saw("dc", f"{decoder}/{name}")
            elif name.startswith("cap_dynamic_ram_"):
                saw(name.removeprefix("cap_"), f"{decoder}/{name}")
        mode = files.glance(f"{CXL}/{decoder}/mode") or ""
        if mode.startswith("dynamic_ram_") or (mode.startswith("dc") and mode[2:].isdigit()):
            saw(mode, f"{decoder}/mode is {mode}")
    for name in named(files, CXL, "mem"):
        for part in files.names(f"{CXL}/{name}"):
            if part.startswith("dynamic_ram_") or (part.startswith("dc") and part[2:].isdigit()):
                saw(part, f"{name}/{part}")
    for region in named(files, CXL, "region"):
        mode = files.glance(f"{CXL}/{region}/mode") or ""
        if mode.startswith("dynamic_ram_") or mode == "dc":
            saw(mode, f"{region}/mode is {mode}")
    return found


def _uuids(files: Files, evidence: list[str]) -> dict[str, str]:
    """{"writable": a DAX device whose uuid can be written, "dynamic": one of a DC region}."""
    found: dict[str, str] = {}
    for region in named(files, CXL, "region"):
        mode = files.glance(f"{CXL}/{region}/mode") or ""
        if not mode.startswith("dynamic_ram_"):
            continue
        for device in dax_devices(files, region):
            found["dynamic"] = device
            if files.writable(f"{DAX}/{device}/uuid"):
                found["writable"] = device
                evidence.append(f"{device}/uuid of {region} is writable")
    return found


# ---- devices ---------------------------------------------------------------------------------------------------------


def memdev(files: Files, name: str) -> Value:
    """{"name", "serial", "pci", "driver", "partitions": {name: bytes}, "payload_max", "decoders", "root"}.

    What sysfs does not show is None; `decoders` are the endpoint decoders of that device, `root` the root decoder of
    the window that leads to it.
    """
    place = f"{CXL}/{name}"
    partitions = {}
    for part in files.names(place):
        size = files.number(f"{place}/{part}/size")
        if size is not None:
            partitions[part] = size
    real = files.leads_to(place) or ""
    above = real.rpartition("/")[0].rpartition("/")[2]
    endpoint = _endpoint(files, name)
    return {
        "name": name,
        "serial": files.number(f"{place}/serial"),
        "pci": above if above.count(":") == 2 else None,
        "driver": files.link(f"{place}/driver"),
        "partitions": partitions,
        "payload_max": files.number(f"{place}/payload_max"),
        "decoders": _endpoint_decoders(files, endpoint),
        "root": _root_of(files, endpoint),
    }


def _endpoint(files: Files, name: str) -> str | None:
    """The endpoint port of a memory device; of a tree without its links the only one that there is."""
    memory = files.leads_to(f"{CXL}/{name}")
    for endpoint in named(files, CXL, "endpoint"):
        if memory is not None and files.leads_to(f"{CXL}/{endpoint}/uport") == memory:
            return endpoint
    return None


def _endpoint_decoders(files: Files, endpoint: str | None) -> list[str]:
    found = []
    for decoder in named(files, CXL, "decoder"):
        if files.glance(f"{CXL}/{decoder}/devtype") == "cxl_decoder_endpoint":
            found.append(decoder)
    if endpoint is not None:
        number = endpoint.removeprefix("endpoint")
        return [decoder for decoder in found if decoder.removeprefix("decoder").partition(".")[0] == number]
    return found if len(named(files, CXL, "mem")) == 1 else []


def _root_of(files: Files, endpoint: str | None) -> str | None:
    """The root decoder above an endpoint: the one whose target is the host bridge that the path goes through."""
    roots = root_decoders(files)
    if endpoint is None or len(roots) == 1:
        return roots[0] if len(roots) == 1 else None
    parts = (files.leads_to(f"{CXL}/{endpoint}") or "").split("/")
    top = next((at for at, part in enumerate(parts) if part.startswith("root")), None)
    if top is None or top + 1 >= len(parts):
        return None
    above, port = "/".join(parts[: top + 1]), "/".join(parts[: top + 2])
    bridge = files.leads_to(f"{port}/uport")
    for link in files.names(above):
        if link.startswith("dport") and files.leads_to(f"{above}/{link}") in (bridge, f"{bridge}/physical_node"):
            number = link.removeprefix("dport")
            for decoder in roots:
                if number in (files.glance(f"{CXL}/{decoder}/target_list") or "").split(","):
                    return decoder
    return None


def root_decoders(files: Files) -> list[str]:
    """The decoders of the windows, in order."""
    decoders = named(files, CXL, "decoder")
    return [one for one in decoders if files.glance(f"{CXL}/{one}/devtype") == "cxl_decoder_root"]


def _roots(files: Files) -> list[Value]:
    """Each window: {"name", "size", "start", "caps", "creates", "targets"}."""
    found = []
    for decoder in root_decoders(files):
        place = f"{CXL}/{decoder}"
        names = files.names(place)
        caps = [name for name in names if name.startswith("cap_") and files.glance(f"{place}/{name}") == "1"]
        found.append(
            {
                "name": decoder,
                "size": files.number(f"{place}/size"),
                "start": files.number(f"{place}/start"),
                "caps": [cap.removeprefix("cap_") for cap in caps],
                "creates": [name for name in names if name.startswith("create_")],
                "targets": files.glance(f"{place}/target_list"),
            }
        )
    return found


def dax_region(files: Files, region: str) -> str | None:
    """The dax region of a region: dax_region0; None where it has none (not bound)."""
    found = named(files, f"{CXL}/{region}", "dax_region")
    if found:
        return found[0]
    own = "dax_" + region
    return own if files.exists(f"{CXL}/{own}/dax_region") else None


def dax_devices(files: Files, region: str) -> list[str]:
    """The DAX devices under a region."""
    under = dax_region(files, region)
    return sorted(named(files, f"{CXL}/{under}", "dax"), key=natural) if under else []


# ---- what is missing -------------------------------------------------------------------------------------------------


def _missing(files: Files, generation: str, memdevs: list[Value], roots: list[Value]) -> list[Value]:
    """What is not there and what it costs, in plain words: [{"what", "cost"}]."""
    found: list[tuple[str, str]] = []
    if not files.exists(CXL):
        found.append(("the CXL bus (CXL_BUS)", "nothing can be done: boot a kernel with CXL, or load its modules"))
    elif not roots:
        found.append(("root decoders (CXL_ACPI, CXL_PORT)", "no region can be made: load cxl_acpi"))
    elif not memdevs:
        found.append(("memory devices (CXL_PCI, CXL_MEM)", "no region can be made: load cxl_pci and cxl_mem"))
    if memdevs and not any(one["decoders"] for one in memdevs):
        cost = "no region can be made: cxl_port is not loaded, or the endpoint's probe failed (see the kernel's log)"
        found.append(("endpoint decoders (CXL_PORT)", cost))
    if generation == NONE:
        found.append(("Dynamic Capacity support", _NO_DCD))
    if roots and not any(root["creates"] for root in roots):
        found.append(("create_*_region (CXL_REGION)", "no region can be made"))
    if not files.exists("/sys/bus/cxl/drivers/cxl_dax_region"):
        found.append(("the driver cxl_dax_region (DEV_DAX_CXL)", "no DAX device appears; v11 refuses every extent"))
    if not files.exists(f"{DAX_DRIVERS}/device_dax"):
        found.append(("the driver device_dax (DEV_DAX)", "no /dev/daxN.M: the bytes cannot be read"))
    if not files.exists(f"{DAX_DRIVERS}/kmem"):
        found.append(("the driver kmem (DEV_DAX_KMEM)", "memory cannot be onlined"))
    if not files.exists(f"{TRACING}/{EVENT}"):
        found.append(("the cxl_dynamic_capacity event (EVENT_TRACING, tracefs)", "records are known by the log alone"))
    if not any(files.exists(path) for path in CONTROLS):
        found.append(("dynamic debug (DYNAMIC_DEBUG)", "the log does not tell what it answers: verdicts end unknown"))
    if not files.exists("/sys/devices/system/memory/soft_offline_page") and not files.exists(
        "/sys/devices/system/memory/hard_offline_page"
    ):
        cost = "the kernel is given no CXL memory error reporting (_OSC); QEMU then delivers no event interrupt"
        found.append(("memory failure handling (MEMORY_FAILURE)", cost))
    return [{"what": what, "cost": cost} for what, cost in found]


def tool(files: Files, name: str) -> str | None:
    """Where a program is, by the usual places."""
    for directory in ("/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"):
        if files.exists(f"{directory}/{name}"):
            return f"{directory}/{name}"
    return None
