"""What a kernel needs: the table, the fragment in images/, `dcd kernel check`, what is told of one without DCD."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from kernel_files import VERSION, bz_image, with_config

from dcdbackend import kconfig
from dcdbackend.cli import run
from dcdbackend.cli.kernel import lacks
from dcdbackend.errors import AskedWrongly

IMAGES = Path(__file__).parents[1] / "images"
NEEDED = [option for option in kconfig.OPTIONS if option.level == "needed"]
WANTED = [option for option in kconfig.OPTIONS if option.level == "wanted"]

# kernel.md, "The kernel needs"; and what a real kernel without FS_DAX showed: no mapping of /dev/dax.
BY_RECORD = (
    *("CXL_BUS", "CXL_PCI", "CXL_ACPI", "CXL_MEM", "CXL_PORT", "CXL_REGION", "DEV_DAX", "DEV_DAX_CXL", "DEV_DAX_KMEM"),
    *("FTRACE", "EVENT_TRACING", "DYNAMIC_DEBUG", "MEMORY_FAILURE", "X86_MCE", "PCIEASPM"),
    *("CXL_REGION_INVALIDATION_TEST", "VIRTIO_CONSOLE", "FS_DAX"),
)


def config(**changes: str) -> str:
    """Everything built in, with changes; `n` as Linux writes it."""
    values = {option.name: "y" for option in kconfig.OPTIONS} | {"MODULES": "y"} | changes
    return "".join(
        f"# CONFIG_{name} is not set\n" if value == "n" else f"CONFIG_{name}={value}\n"
        for name, value in values.items()
    )


def test_the_table_has_what_the_record_says() -> None:
    names = [option.name for option in kconfig.OPTIONS]
    assert set(BY_RECORD) <= set(names)
    assert len(set(names)) == len(names)
    assert not set(names) & set(kconfig.DEPENDS)


def test_the_fragment_is_the_table() -> None:
    """images/dcd.config by its content, not by its text alone: it sets every option, and passes its own check."""
    text = (IMAGES / "dcd.config").read_text()
    assert text == kconfig.fragment(), "make it anew: python -c 'from dcdbackend import kconfig; ...fragment()'"
    assert set(kconfig.parse(text)) == {option.name for option in kconfig.OPTIONS} | set(kconfig.DEPENDS)
    assert set(kconfig.parse(text).values()) == {"y"}
    assert all(found.served for found in kconfig.look(kconfig.parse(text)))
    assert all(len(line) <= 120 for line in text.splitlines())


@pytest.mark.parametrize("option", kconfig.OPTIONS, ids=lambda option: str(option.name))
@pytest.mark.parametrize("how", ["n", "absent", "m"])
def test_each_option(option: kconfig.Option, how: str) -> None:
    values = kconfig.parse(config(**{option.name: how}))
    if how == "absent":
        del values[option.name]
    served = {found.option.name: found.served for found in kconfig.look(values)}
    assert served.pop(option.name) == (how == "m" and option.module)
    assert all(served.values())


def test_a_module_without_modules_is_none() -> None:
    served = {
        found.option.name: found.served for found in kconfig.look(kconfig.parse(config(CXL_PCI="m", MODULES="n")))
    }
    assert not served["CXL_PCI"]


def test_what_mutes_the_device_says_so() -> None:
    """The three that kernel.md calls less obvious: without them every event is lost in silence."""
    costs = {option.name: option.cost for option in NEEDED}
    for name in ("MEMORY_FAILURE", "X86_MCE", "PCIEASPM"):
        assert "_OSC" in costs[name]
        assert "no DCD interrupt" in costs[name]
        assert "lost in silence" in costs[name]


@pytest.mark.parametrize("text", ["", "\n", "nothing", "CONFIG=1\n", "#CONFIG_X is not set\n"])
def test_what_is_no_configuration(text: str) -> None:
    with pytest.raises(AskedWrongly, match=r"/proc/config\.gz"):
        kconfig.parse(text)


# -- dcd kernel check ---------------------------------------------------------------------------------------------


def as_config(place: Path, text: str) -> Path:
    path = place / ".config"
    path.write_text(text)
    return path


def as_config_gz(place: Path, text: str) -> Path:
    path = place / "config.gz"
    path.write_bytes(gzip.compress(text.encode()))
    return path


def as_kernel(place: Path, text: str) -> Path:
    path = place / "bzImage"
    path.write_bytes(bz_image(gzip.compress(with_config(text))))
    return path


def as_kernel_with_file(place: Path, text: str) -> Path:
    path = place / f"vmlinuz-{VERSION}"
    path.write_bytes(bz_image(gzip.compress(b"no configuration")))
    (place / f"config-{VERSION}").write_text(text)
    return path


def as_build_tree(place: Path, text: str) -> Path:
    path = place / "arch/x86/boot/bzImage"
    path.parent.mkdir(parents=True)
    path.write_bytes(bz_image(gzip.compress(b"no configuration")))
    (place / ".config").write_text(text)
    return path


FORMS = (as_config, as_config_gz, as_kernel, as_kernel_with_file, as_build_tree)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_configuration(form: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "whole").mkdir()
    whole = form(tmp_path / "whole", config())
    assert run(["kernel", "check", str(whole)]) == 0
    assert "0 needed and 0 wanted options are not there" in capsys.readouterr().out
    (tmp_path / "lacking").mkdir()
    lacking = form(tmp_path / "lacking", config(PCIEASPM="n", DEV_DAX_KMEM="n", CXL_PCI="m"))
    assert run(["kernel", "check", str(lacking)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "CONFIG_PCIEASPM needed missing" in said
    assert "CONFIG_DEV_DAX_KMEM wanted missing" in said
    assert "CONFIG_CXL_PCI" not in said
    assert "1 needed and 1 wanted options are not there" in said
    assert "images/dcd.config" in said


def test_a_wanted_option_alone_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["kernel", "check", str(as_config(tmp_path, config(**{option.name: "n" for option in WANTED})))]) == 0
    assert f"0 needed and {len(WANTED)} wanted" in capsys.readouterr().out


def test_as_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernel = as_kernel(tmp_path, config(X86_MCE="n", CXL_REGION="m", CXL_MEM="m"))
    assert run(["kernel", "check", "--json", str(kernel)]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["version"], told["ok"], told["from"]) == (VERSION, False, str(kernel))
    rows = {row["name"]: row for row in told["options"]}
    assert len(rows) == len(kconfig.OPTIONS)
    assert (rows["X86_MCE"]["state"], rows["X86_MCE"]["served"]) == ("missing", False)
    assert (rows["CXL_REGION"]["state"], rows["CXL_REGION"]["served"]) == ("module", False)
    assert (rows["CXL_MEM"]["state"], rows["CXL_MEM"]["served"]) == ("module", True)
    assert "lost in silence" in rows["X86_MCE"]["cost"]


def test_all_shows_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["kernel", "check", "--all", str(as_config(tmp_path, config()))]) == 0
    said = capsys.readouterr().out
    assert all(f"CONFIG_{option.name}" in said for option in kconfig.OPTIONS)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (None, "cannot be read"),
        (b"", "is no kernel and no configuration"),
        (b"\x00\xff" * 700, "is no kernel and no configuration"),
        (gzip.compress(b"CONFIG_X=y\n")[:-9], "is damaged"),
        (bz_image(gzip.compress(b"no configuration")), "carries no configuration (CONFIG_IKCONFIG is not set)"),
        (bz_image(gzip.compress(with_config("")))[:-1], "is cut short"),
    ],
)
def test_bad_input_is_one_line(
    data: bytes | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "given"
    if data is not None:
        path.write_bytes(data)
    assert run(["kernel", "check", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


# -- a kernel without DCD -----------------------------------------------------------------------------------------

STOCK: dict[str, Any] = {
    "generation": {"found": "none", "sure": True, "evidence": ["no attribute that creates a DC region"]},
    "kernel": "6.12.107+deb13-cloud-amd64",
    "missing": [
        {"what": "Dynamic Capacity support", "cost": "no DC region can be made"},
        {"what": "the driver cxl_dax_region (DEV_DAX_CXL)", "cost": "no DAX device appears"},
    ],
}


def test_a_stock_kernel_is_told_what_it_lacks_and_what_to_do() -> None:
    told = kconfig.lacking(STOCK)
    assert told is not None
    assert "\n" not in told
    for part in ("6.12.107+deb13-cloud-amd64 has no Dynamic Capacity", "cxl_dax_region (DEV_DAX_CXL)", "--host U"):
        assert part in told
    assert "--modules" not in told
    assert "--modules DIR" in (kconfig.lacking(STOCK, modules=False) or "")


@pytest.mark.parametrize("found", ["v11", "v10", "A/B-rfc", "early"])
def test_a_kernel_with_dcd_lacks_nothing(found: str) -> None:
    assert kconfig.lacking({**STOCK, "generation": {"found": found}}) is None


@pytest.mark.parametrize(
    "survey",
    [
        {},
        {"generation": None, "missing": None, "kernel": None},
        {"generation": "v11", "missing": "much", "kernel": 7},
        {"generation": {"found": 11}, "missing": [1, None, {"cost": "x" * 10_000}, {"what": "a\nb"}] * 100},
    ],
)
def test_what_a_guest_says_is_data(survey: dict[str, Any]) -> None:
    told = kconfig.lacking(survey)
    assert told is not None
    assert "\n" not in told
    assert len(told) < 2000


def test_what_a_run_says_first_of_a_kernel(tmp_path: Path) -> None:
    """A line for each option that is needed; nothing of what is only wanted, or where nothing is known."""
    told = lacks(as_config(tmp_path, config(DYNAMIC_DEBUG="n", FS_DAX="m", IKCONFIG="n")))
    assert [line.partition(":")[0] for line in told] == [
        "this kernel lacks CONFIG_FS_DAX", "this kernel lacks CONFIG_DYNAMIC_DEBUG",
    ]  # fmt: skip
    assert "verdicts end unknown" in told[1]
    assert lacks(as_config(tmp_path, config())) == [] == lacks(tmp_path / "none")
