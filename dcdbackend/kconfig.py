"""What a kernel must have built in or as a module to be tested here, and what each lack costs.

`OPTIONS` is the one table; `dcd kernel check` judges a configuration by it (`look`), images/dcd.config is the same
table as a fragment for `merge_config.sh`, and `lacking` says of a booted kernel without DCD what to do about it.

No configuration option says that a kernel has DCD: the patches add code to CXL_REGION and DEV_DAX_CXL, no option of
their own. So a configuration can only rule a kernel out; whether it has DCD is seen when it runs. Nothing is read
from a file here (`bzimage` does).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .errors import AskedWrongly

_HEAD = """\
# What a kernel needs to be tested here, as a fragment (made from dcdbackend/kconfig.py; a test compares the two).
# In the kernel's source tree, IMAGES being this directory:
#
#     scripts/kconfig/merge_config.sh -m .config IMAGES/dcd.config && make olddefconfig && dcd kernel check .config
#
# Drivers may also be modules, given by --modules DIR. DCD has no option of its own: the patches add it to CXL_REGION
# and DEV_DAX_CXL. Not here: lockdep (PROVE_LOCKING) and KASAN, which find more, and a boot takes several times as long.
"""

Level = Literal["needed", "wanted"]
State = Literal["built in", "module", "missing"]

_SET = re.compile(r"CONFIG_([A-Za-z0-9_]+)=(.*)", re.ASCII)
_UNSET = re.compile(r"# CONFIG_([A-Za-z0-9_]+) is not set", re.ASCII)
_BROUGHT = 4
"""How many things that are missing one line names at most."""
_ITSELF = "Dynamic Capacity"
"""How the survey's row begins that says no more than the line itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """A row. `level`: without a needed one nothing can be tested; a wanted one costs only what `cost` says.

    `module`: whether =m will do.
    """

    name: str
    level: Level
    why: str
    cost: str
    module: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An option as a configuration has it. `served`: it is good enough as it is."""

    option: Option
    state: State
    served: bool


_MUTE = "QEMU delivers no DCD interrupt (no error reporting by _OSC), and events are lost in silence"


def _need(name: str, why: str, cost: str, *, module: bool = True) -> Option:
    return Option(name=name, level="needed", why=why, cost=cost, module=module)


def _want(name: str, why: str, cost: str) -> Option:
    return Option(name=name, level="wanted", why=why, cost=cost)


OPTIONS: tuple[Option, ...] = (
    _need("CXL_BUS", "the CXL core", "no CXL at all"),
    _need("CXL_PCI", "the memory device's driver", "the device is not found"),
    _need("CXL_ACPI", "the windows of the CEDT", "no root decoder, so no region"),
    _need("CXL_MEM", "memory devices", "no endpoint decoder, so no region"),
    _need("CXL_PORT", "ports and their decoders", "no endpoint decoder, so no region"),
    _need("CXL_REGION", "regions, and all of DCD", "no region can be made", module=False),
    _need("DEV_DAX", "DAX devices", "no /dev/dax: capacity arrives and nobody can map it"),
    _need("FS_DAX", "mapping /dev/dax (S_DAX)", "mmap of /dev/dax fails: no byte can be looked at", module=False),
    _need("DEV_DAX_CXL", "a region's DAX devices", "an accepted extent never becomes a DAX device (B13)"),
    _need("MEMORY_FAILURE", "CXL memory error reporting by _OSC", _MUTE, module=False),
    _need("X86_MCE", "what MEMORY_FAILURE needs", _MUTE, module=False),
    _need("PCIEASPM", "native PCIe control by _OSC", _MUTE, module=False),
    _need("PCI_MSI", "interrupts, and native PCIe control by _OSC", _MUTE, module=False),
    _need("VIRTIO_PCI", "the agent's port", "the agent cannot speak"),
    _need("VIRTIO_CONSOLE", "the agent's port", "the agent cannot speak"),
    _need("BLK_DEV_INITRD", "the guest's root file system", "no root: the kernel panics", module=False),
    _need("BINFMT_ELF", "programs", "no program starts: the kernel panics", module=False),
    _need("BINFMT_SCRIPT", "/init is a shell script", "/init does not start: the kernel panics", module=False),
    _need("DEVTMPFS", "/dev", "the agent finds neither its port nor /dev/dax", module=False),
    _need("PROC_FS", "/proc", "the agent does not start", module=False),
    _need("SYSFS", "/sys", "regions and DAX devices cannot be made", module=False),
    _need("TTY", "consoles", "no console, and no port for the agent", module=False),
    _need("DYNAMIC_DEBUG", "the drivers' own words", "the log does not tell what it answers: verdicts end unknown"),
    _want("SERIAL_8250_CONSOLE", "the console", "a panic is seen without its words"),
    _want(
        "CXL_REGION_INVALIDATION_TEST",
        "regions although a hypervisor is seen",
        "none here, where the guest sees no hypervisor; elsewhere a region is not committed (ENXIO)",
    ),
    _want("DEV_DAX_KMEM", "DAX devices as memory", "what happens to capacity that is online as memory is skipped"),
    _want("MEMORY_HOTPLUG", "what DEV_DAX_KMEM needs", "as DEV_DAX_KMEM"),
    _want("MEMORY_HOTREMOVE", "taking memory away again", "memory that went online stays: each run needs a new boot"),
    _want("FTRACE", "the trace", "no cxl_dynamic_capacity events: one witness less, often the only one"),
    _want("EVENT_TRACING", "the trace's events", "as FTRACE"),
    _want(
        "CXL_MEM_RAW_COMMANDS", "4801h by /dev/cxl/memN", "the device's list as the kernel's side sees it is skipped"
    ),
    _want("DETECT_HUNG_TASK", "hung tasks in the log", "a task that hangs is seen only as a time-out"),
    _want("IKCONFIG", "the configuration inside the image", "dcd kernel check needs the .config beside it"),
    _want("DEVMEM", "host U reaches the window", "host U (--host U) cannot run on it"),
)
"""By `kernel.md` and by Linux's own drivers/acpi/pci_root.c (calculate_cxl_control: MEMORY_FAILURE;
ACPI_PCIE_REQ_SUPPORT: ASPM and MSI) and drivers/cxl/pci.c (cxl_event_config: no interrupt without native_cxl_error)."""

DEPENDS = (
    *("PCI", "PCI_MMCONFIG", "PCIEPORTBUS", "ACPI", "SPARSEMEM_VMEMMAP", "ZONE_DEVICE", "TRANSPARENT_HUGEPAGE", "DAX"),
    *("VIRTIO_MENU", "SERIAL_8250", "PRINTK", "DEBUG_FS", "DEBUG_KERNEL", "ENABLE_DEFAULT_TRACERS", "IKCONFIG_PROC"),
)
"""What the rows depend on, or are switched on by: for the fragment alone, since a kernel without them lacks a row."""


def parse(text: str) -> dict[str, str]:
    """A configuration: `CXL_BUS` to `y`, `m`, `n`, a number or a string. Errors: AskedWrongly (it is none)."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        given, unset = _SET.fullmatch(line.strip()), _UNSET.fullmatch(line.strip())
        if given is not None:
            found[given[1]] = given[2].strip('"')
        elif unset is not None:
            found[unset[1]] = "n"
    if not found:
        raise AskedWrongly("no line says CONFIG_...=...; give a bzImage, a .config, or /proc/config.gz")
    return found


def look(config: Mapping[str, str]) -> tuple[Found, ...]:
    """Every row of the table, as the configuration has it."""
    return tuple(_found(option, config) for option in OPTIONS)


def fragment() -> str:
    """The table as a configuration fragment: images/dcd.config."""
    lines = [_HEAD.rstrip("\n")]
    for level in ("needed", "wanted"):
        lines += ["", f"# ---- {level} ----"]
        for option in (one for one in OPTIONS if one.level == level):
            lines += [f"# {option.why}", f"# without it: {option.cost}", f"CONFIG_{option.name}=y"]
    lines += ["", "# ---- what these depend on, or are switched on by ----", *(f"CONFIG_{name}=y" for name in DEPENDS)]
    return "\n".join(lines) + "\n"


def _found(option: Option, config: Mapping[str, str]) -> Found:
    state = _state(config.get(option.name))
    without_modules = state == "module" and config.get("MODULES") != "y"
    served = state == "built in" or (state == "module" and option.module and not without_modules)
    return Found(option=option, state=state, served=served)


def _state(value: str | None) -> State:
    return "built in" if value == "y" else "module" if value == "m" else "missing"


def lacking(survey: Mapping[str, Any], *, kernel: str = "", modules: bool = True) -> str | None:
    """Why a booted kernel cannot be tested for DCD, and what to do; None where it has DCD, whichever generation.

    `survey`: the agent's (from the guest, so it is read as data). `kernel`: the file, for the commands. `modules`:
    whether modules were given along.
    """
    generation = survey.get("generation")
    found = generation.get("found") if isinstance(generation, Mapping) else None
    if isinstance(found, str) and found != "none":
        return None
    release = str(survey.get("kernel") or "this kernel")[:80]
    missing = survey.get("missing")
    rows = [row for row in missing if isinstance(row, Mapping)] if isinstance(missing, Sequence) else []
    rows = [row for row in rows if not str(row.get("what")).startswith(_ITSELF)]
    said = "".join([f"; it lacks {_row(row)}" for row in rows[:_BROUGHT]])
    more = f"; and {len(rows) - _BROUGHT} more" if len(rows) > _BROUGHT else ""
    along = "" if modules else " with its modules (--modules DIR)"
    return (
        f"Linux {release} has no Dynamic Capacity support: it offers no region mode for it{said}{more}; "
        f"boot one that has the DCD patches{along}: --kernel BZIMAGE (no distribution ships one; images/dcd.config and "
        f"dcd kernel check {kernel or 'BZIMAGE'} tell what else it needs); or --host U, which needs none of this"
    )


def _row(row: Mapping[str, Any]) -> str:
    """A thing that is missing, and what that costs."""
    what, cost = (str(row.get(key) or "")[:160].replace("\n", " ") for key in ("what", "cost"))
    return f"{what} ({cost})" if cost else what
