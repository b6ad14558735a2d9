"""The third archive: which modules go along, in which order, for which kernel; and that host U's initrd has none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from kernel_files import VERSION, a_module, bz_image, module, modules_directory

from dcdbackend.errors import AskedWrongly
from dcdbackend.image import archive, initrd, modules
from dcdbackend.image.step import silent

WANTED = ("virtio_console", "cxl_core", "cxl_acpi", "cxl_pci", "cxl_mem")


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "bzImage"
    path.write_bytes(bz_image())
    return path


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A /lib/modules/VERSION."""
    return modules_directory(tmp_path / "root/lib/modules")


def contents(chosen: modules.Chosen) -> dict[str, bytes]:
    return {entry.name: entry.data for entry in chosen.entries()}


def test_what_is_wanted_and_what_that_needs(installed: Path, kernel: Path) -> None:
    """By what the modules say, softdep's `pre` included; what is built in, or that nobody needs, stays away."""
    chosen = modules.choose(installed, kernel, WANTED)
    assert chosen is not None
    assert chosen.version == VERSION
    assert set(chosen.paths) == {"cxl_acpi", "cxl_pci", "cxl_bus", "firmware_helper", "cxl_port"}
    assert chosen.needs["cxl_pci"] == ("firmware_helper", "cxl_bus", "cxl_port")
    assert chosen.needs["cxl_acpi"] == ()
    assert chosen.boot == ()


def test_the_archive(installed: Path, kernel: Path) -> None:
    """Unpacked modules under the kernel's own names; modules.dep as kmod reads it, the first to load at the end."""
    chosen = modules.choose(installed, kernel, WANTED)
    assert chosen is not None
    found = contents(chosen)
    assert list(found)[:2] == ["dcd", "dcd/modules"]
    assert found["dcd/modules/cxl_acpi.ko"] == a_module("cxl_acpi", depends=["cxl_core"])
    assert all(data.startswith(b"\x7fELF") for name, data in found.items() if name.endswith(".ko"))
    lines = found["dcd/modules/modules.dep"].decode().splitlines()
    assert "cxl_pci.ko: cxl_port.ko cxl_bus.ko firmware_helper.ko" in lines
    assert "cxl_acpi.ko:" in lines
    assert b"cxl_core.ko" in found["dcd/modules/modules.builtin"]
    assert found["dcd/modules/boot"] == b""


def test_the_console_is_loaded_before_the_agent(installed: Path, kernel: Path) -> None:
    """Where it is a module, with what it needs first; the drivers are the agent's to load."""
    char = installed / "kernel/drivers/char"
    char.mkdir()
    (char / "virtio_console.ko").write_bytes(a_module("virtio_console", depends=["virtio_ring", "virtio"]))
    (char / "virtio.ko").write_bytes(a_module("virtio"))
    (char / "virtio_ring.ko").write_bytes(a_module("virtio_ring", depends=["virtio"]))
    chosen = modules.choose(installed, kernel, (*modules.PORT, "cxl_acpi"))
    assert chosen is not None
    assert chosen.boot == ("virtio", "virtio_ring", "virtio_console")
    listed = contents(chosen)["dcd/modules/boot"].decode().splitlines()
    assert listed == [f"/dcd/modules/{name}.ko" for name in chosen.boot]


@pytest.mark.parametrize("above", [0, 1, 3])
def test_the_directory_or_what_holds_it(above: int, installed: Path, kernel: Path) -> None:
    """VERSION itself, /lib/modules, or a whole root; of several versions the kernel's."""
    modules_directory(installed.parent, "5.0.0-older")
    modules_directory(installed.parent, "7.9.9-newer")
    given = [installed, *installed.parents][above]
    chosen = modules.choose(given, kernel, WANTED)
    assert chosen is not None
    assert chosen.directory == installed


def test_modules_for_another_kernel(tmp_path: Path, kernel: Path) -> None:
    """The directory's name may lie; what a module was built for (vermagic) does not."""
    for place in (tmp_path / "a", tmp_path / "b"):
        modules_directory(place, "5.0.0-older")
    (tmp_path / "b/5.0.0-older").rename(tmp_path / "b" / VERSION)
    for given in (tmp_path / "a", tmp_path / "a/5.0.0-older", tmp_path / "b"):
        with pytest.raises(AskedWrongly, match=rf"are for Linux 5\.0\.0-older, the kernel '.*' is {VERSION}") as caught:
            modules.choose(given, kernel, WANTED)
        assert "\n" not in str(caught.value)


def test_a_kernel_that_does_not_say_its_version(installed: Path, tmp_path: Path) -> None:
    """A vmlinux without its banner: nothing to compare with, so the modules are taken."""
    image = tmp_path / "vmlinux"
    image.write_bytes(b"\x7fELF" + bytes(0x300))
    assert modules.choose(installed, image, WANTED) is not None


def test_a_directory_without_modules(tmp_path: Path, kernel: Path) -> None:
    (tmp_path / "empty").mkdir()
    for given, told in ((tmp_path / "empty", "no kernel module is in it"), (tmp_path / "nope", "is no directory")):
        with pytest.raises(AskedWrongly, match=told):
            modules.choose(given, kernel, WANTED)


def test_all_built_in_needs_no_archive(installed: Path, kernel: Path) -> None:
    shutil.rmtree(installed / "kernel/drivers/cxl")
    assert modules.choose(installed, kernel, WANTED) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a module",
        b"\x7fELF\x02\x01" + bytes(40),
        a_module("cxl_acpi")[:-70],
        a_module("cxl_acpi").replace(b".modinfo", b".modlost"),
    ],
)
def test_a_damaged_module_is_named(data: bytes, installed: Path, kernel: Path) -> None:
    (installed / "kernel/drivers/cxl/cxl_port.ko").write_bytes(data)
    with pytest.raises(AskedWrongly, match=r"cxl_port\.ko' is no kernel module for x86_64"):
        modules.choose(installed, kernel, ("cxl_port",))


def test_a_circle_of_soft_dependencies_ends(installed: Path, kernel: Path) -> None:
    port = installed / "kernel/drivers/cxl/cxl_port.ko"
    port.write_bytes(module("name=cxl_port", "depends=", "softdep=pre: cxl_pci", f"vermagic={VERSION} SMP"))
    chosen = modules.choose(installed, kernel, ("cxl_port",))
    assert chosen is not None
    assert "cxl_pci" in chosen.needs["cxl_port"]


def test_an_update_comes_before_the_kernels_own(installed: Path, kernel: Path) -> None:
    """As depmod has it by default: updates/ over kernel/."""
    other = installed / "updates/dkms/cxl_acpi.ko"
    other.parent.mkdir(parents=True)
    other.write_bytes(a_module("cxl_acpi"))
    chosen = modules.choose(installed, kernel, WANTED)
    assert chosen is not None
    assert chosen.paths["cxl_acpi"] == other


def test_a_package_is_pruned_to_what_may_be_wanted(installed: Path, kernel: Path) -> None:
    before = modules.choose(installed, kernel, WANTED)
    modules.prune(installed.parent, WANTED)
    left = {path.name for path in installed.rglob("*") if path.is_file()}
    assert left == {
        *("cxl_acpi.ko.xz", "cxl_pci.ko.gz", "cxl-bus.ko", "cxl_port.ko", "firmware-helper.ko"),
        "modules.builtin",
    }
    assert not (installed / "kernel/drivers/net").exists()
    assert modules.choose(installed, kernel, WANTED) == before


def test_the_third_archive_is_behind_the_others(
    installed: Path, kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves the first two as they are without it: host U's initrd does not change."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(initrd, "sources", lambda: {"__init__.py": b"", "agent.py": b"x = 1\n"})
    own = tmp_path / "own.cpio"
    own.write_bytes(b"070701 an archive")
    plain = initrd.appended(own, None, silent)
    chosen = modules.choose(installed, kernel, WANTED)
    third = initrd.Third(False, chosen)
    longer = initrd.appended(own, None, silent, third)
    assert longer != plain
    first, both = plain.read_bytes(), longer.read_bytes()
    assert both.startswith(first)
    assert len(first) % 512 == 0
    assert both[len(first) :].startswith(b"070701")
    assert b"dcd/modules/cxl_acpi.ko\0" in both[len(first) :]
    assert b"dcd/modules" not in first.replace(b"/dcd/modules/boot", b"")  # which /init looks for
    assert initrd.appended(own, None, silent, third) == longer
    assert archive.padding(len(both)) == b""
