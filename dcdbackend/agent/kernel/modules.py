"""The kernel's drivers: loaded in their order, unloaded, and a device that its driver gave up on, brought back.

Modules are found in the guest's image, or under /lib/modules of the running kernel, with what they depend on; the
kernel itself unpacks those that are compressed, where it can. A driver that is built in, or loaded already, is no
error, and neither is one that is not there: what its absence costs, `survey` says. No `modprobe` is needed: the guest's
image has none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from ...errors import AskedWrongly, CannotRun
from .. import pci, sysfs
from .files import Files, KernelRefused, error_name, name_of, one_name
from .region import Writing, find_memdev
from .survey import CONTROLS, CXL, named

Value = dict[str, Any]

ORDER = ("cxl_acpi", "cxl_pci", "cxl_mem", "cxl_port", "dax_cxl", "device_dax", "kmem")
HOMES = ("/dcd/modules",)
"""Where the guest's image has them, flat; else they are where every system has them."""
DRIVERS = {
    "cxl_acpi": "/sys/bus/platform/drivers/cxl_acpi",
    "cxl_pci": "/sys/bus/pci/drivers/cxl_pci",
    "cxl_mem": "/sys/bus/cxl/drivers/cxl_mem",
    "cxl_port": "/sys/bus/cxl/drivers/cxl_port",
    "dax_cxl": "/sys/bus/cxl/drivers/cxl_dax_region",
    "device_dax": "/sys/bus/dax/drivers/device_dax",
    "kmem": "/sys/bus/dax/drivers/kmem",
}
"""What each brings: a driver that is there without its module is built in."""
MOST = 64
SETTLE_S = 10.0
_STEP_S = 0.005
_STEADY_LOOKS = 3
_PATIENCE_S = 0.5
_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
_COMPRESSED = 4  # MODULE_INIT_COMPRESSED_FILE of finit_module(2)
_SYSCALLS = {"x86_64": (313, 176), "aarch64": (273, 106)}
_CXL_CLASSES = (pci.CLASS_MEMORY_DEVICE,)
_DVSEC, _DVSEC_CXL_DEVICE, _CXL_VENDOR = 0x0023, 0, 0x1E98
_RANGE_SIZE_LOW, _RANGES = 0x1C, 2
_CONTROL, _MEM_ENABLE = 0x0C, 4


class Modules:
    """The modules of this kernel: where they are, what they need."""

    def __init__(self, files: Files) -> None:
        self._files = files
        release = os.uname().release if not files.root else files.glance("/proc/sys/kernel/osrelease") or ""
        self._home = next((home for home in HOMES if files.exists(home)), f"/lib/modules/{release}")
        self._paths: dict[str, str] | None = None
        self._needs: dict[str, list[str]] = {}
        self._builtin: set[str] = set()

    def load(self, request: Value) -> Value:
        """{"names"}: {"loaded", "builtin", "absent", "failed": {name: errno}}; waits until what they find has settled.

        Errors: AskedWrongly.
        """
        found: Value = {"loaded": [], "builtin": [], "absent": [], "failed": {}}
        for name in _names(request, ORDER):
            self._load_one(name, found, 0)
        if found["loaded"]:
            found["settled"] = settled(self._files)
        return found

    def unload(self, request: Value) -> Value:
        """{"names"}, in this order: {"unloaded", "absent", "failed": {name: errno}}. Errors: AskedWrongly."""
        found: Value = {"unloaded": [], "absent": [], "failed": {}}
        for name in _names(request, ()):
            if not self._live(name):
                found["absent"].append(name)
                continue
            refused = _system_call(1, name.encode() + b"\0", os.O_NONBLOCK)
            if refused:
                found["failed"][name] = refused
            else:
                found["unloaded"].append(name)
        return found

    def _load_one(self, name: str, found: Value, depth: int) -> None:
        if name in found["loaded"] or depth > MOST:
            return
        if self._live(name):
            found["loaded"].append(name)
            return
        path = self._known().get(name)
        if name in self._builtin or self._files.exists(DRIVERS.get(name, f"/sys/module/{name}")):
            found["builtin"].append(name)
            return
        if path is None:
            found["absent"].append(name)
            return
        for need in self._needs.get(name, ()):
            self._load_one(need, found, depth + 1)
        refused = self._insert(path)
        if refused in (None, "EEXIST"):
            found["loaded"].append(name)
        else:
            found["failed"][name] = refused

    def _live(self, name: str) -> bool:
        return self._files.glance(f"/sys/module/{name}/initstate") == "live"

    def _insert(self, path: str) -> str | None:
        """Give a file to the kernel; the errno's name when it refuses."""
        try:
            fd = os.open(self._files.place(path), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            return error_name(error)
        try:
            debug = b"dyndbg=+p\0" if any(self._files.exists(one) for one in CONTROLS) else b"\0"
            flags = 0 if path.endswith(".ko") else _COMPRESSED
            return _system_call(0, fd, debug, flags)
        finally:
            os.close(fd)

    def _known(self) -> dict[str, str]:
        """Path by name, of all modules of this kernel; read once."""
        if self._paths is None:
            self._paths = {}
            for path, needs in self._listed():
                name = _name_of(path)
                self._paths[name] = path
                self._needs[name] = [_name_of(need) for need in reversed(needs)]
            builtin = self._files.glance(f"{self._home}/modules.builtin") or ""
            self._builtin = {_name_of(line) for line in builtin.split()}
        return self._paths

    def _listed(self) -> Iterator[tuple[str, list[str]]]:
        """Modules and what they need: by modules.dep, else every file there is, and what it says itself."""
        listed = f"{self._home}/modules.dep"
        if self._files.exists(listed):
            text = sysfs.read_bytes(self._files.place(listed), max_bytes=16 << 20).decode("utf-8", "replace")
            for line in text.splitlines():
                path, _, needs = line.partition(":")
                yield f"{self._home}/{path}", needs.split()
            return
        for directory, _, names in os.walk(self._files.place(self._home)):
            for name in names:
                if name.endswith(_SUFFIXES):
                    yield f"{directory.removeprefix(self._files.root)}/{name}", _said(f"{directory}/{name}")


def _name_of(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _said(path: str) -> list[str]:
    """What a module that is not compressed says it needs (`depends=` of its .modinfo), last first as in modules.dep."""
    if not path.endswith(".ko"):
        return []
    data = sysfs.read_bytes(path, max_bytes=64 << 20)
    at = data.find(b"\0depends=")
    if at < 0:
        return []
    text = data[at + 9 : data.index(b"\0", at + 9)].decode("ascii", "replace")
    return [f"{name}.ko" for name in reversed(text.split(",")) if name]


def _names(request: Value, default: tuple[str, ...]) -> list[str]:
    names = request.get("names") or list(default)
    if not isinstance(names, list) or not 0 < len(names) <= MOST:
        raise AskedWrongly(f"names {str(names)[:80]}; give a list of 1 to {MOST} modules")
    return [one_name(name, "module").replace("-", "_") for name in names]


def _system_call(which: int, *arguments: object) -> str | None:
    """finit_module (0) or delete_module (1); the errno's name when the kernel refuses."""
    import ctypes

    numbers = _SYSCALLS.get(os.uname().machine)
    if numbers is None:
        raise CannotRun(f"modules on {os.uname().machine} cannot be loaded from here; load them with modprobe first")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(numbers[which]), *arguments) == 0:
        return None
    return name_of(ctypes.get_errno())


# ---- what the drivers have found -------------------------------------------------------------------------------------


def settled(files: Files, timeout_s: float = SETTLE_S) -> bool:
    """Wait until every memory device that has a driver also has its endpoint, and nothing new appears; whether so.

    A device whose port gave up never gets one: then what is there has to be the same for a while. A recorded tree
    never changes: it is as it is.
    """
    ends = time.monotonic() + timeout_s
    before: list[str] = []
    steady_since = time.monotonic()
    while True:
        now = files.names(CXL)
        if now != before:
            before, steady_since = now, time.monotonic()
        memdevs, endpoints = len(named(files, CXL, "mem")), len(named(files, CXL, "endpoint"))
        bound = _bound(files)
        quiet_s = time.monotonic() - steady_since
        complete = memdevs == bound and endpoints == memdevs
        if files.root or quiet_s > (_STEADY_LOOKS * _STEP_S if complete and memdevs else _PATIENCE_S):
            return complete
        if time.monotonic() > ends:
            return False
        time.sleep(_STEP_S)


def _bound(files: Files) -> int:
    """How many memory devices' PCI functions have a driver."""
    found = 0
    for class_code in _CXL_CLASSES:
        for function in pci.functions(files.root, class_code):
            found += pci.bound_driver(function) is not None
    return found


def revive(files: Files, request: Value, writing: Writing) -> Value:
    """{"serial" | "memdev"} or nothing for all: a device whose endpoint failed after a reset, probed anew.

    The reset leaves the DVSEC's mem-enable bit on, and the driver then believes the device to be in use by firmware
    (kernel.md): its driver is taken away, the bit cleared, the driver bound again. {"revived": PCI addresses}.
    Errors: AskedWrongly, KernelRefused, CannotRun.
    """
    wanted = find_memdev(files, request)["pci"] if "serial" in request or "memdev" in request else None
    revived = []
    for function in pci.functions(files.root, pci.CLASS_MEMORY_DEVICE):
        if wanted is not None and function.address != wanted:
            continue
        if wanted is None and _has_endpoint(files, function.address):
            continue
        driver = pci.bound_driver(function) or "cxl_pci"
        place = f"/sys/bus/pci/drivers/{driver}"
        if pci.bound_driver(function) is not None:
            writing(f"{place}/unbind", function.address)
        _clear_mem_enable(function)
        writing(f"{place}/bind", function.address)
        revived.append(function.address)
    return {"revived": revived, "settled": settled(files)}


def _has_endpoint(files: Files, address: str) -> bool:
    uports = [files.leads_to(f"{CXL}/{endpoint}/uport") or "" for endpoint in named(files, CXL, "endpoint")]
    return any(f"/{address}/" in f"{uport}/" for uport in uports)


def _clear_mem_enable(function: pci.Function) -> None:
    """Clear Mem_Enable of the CXL Device DVSEC's control (CXL r3.1 8.1.3.2). Errors: CannotRun."""
    space = pci.config_space(function)
    for capability in pci.extended_capabilities(space):
        at = capability.offset
        vendor, kind = (int.from_bytes(space[x : x + 2], "little") for x in (at + 4, at + 8))
        if (capability.id, vendor, kind) == (_DVSEC, _CXL_VENDOR, _DVSEC_CXL_DEVICE):
            control = int.from_bytes(space[at + _CONTROL : at + _CONTROL + 2], "little")
            path = f"{function.path}/config"
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    os.pwrite(fd, (control & ~_MEM_ENABLE).to_bytes(2, "little"), at + _CONTROL)
                finally:
                    os.close(fd)
            except OSError as error:
                raise KernelRefused(error_name(error), path) from None
            return
    raise CannotRun(f"{function.address} has no CXL device DVSEC; there is nothing to clear")
