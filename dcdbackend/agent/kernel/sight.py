"""What sysfs shows of a region at one moment, as a Sight's fields in JSON (`model.observe.Sight`).

Reading takes a while and the kernel goes on: directories vanish between being listed and being read. Then everything
is read again, a few times; what still cannot be read is left out and told in words (`odd`), like what holds something
that nobody expects. A field that was not seen is not there, never a guess. `seen` makes the Sight of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .files import Files, KernelRefused, number_of
from .survey import CXL, DAX, dax_region, named

if TYPE_CHECKING:
    from ...model.observe import Sight

Value = dict[str, Any]

TRIES = 3
MOST_MAPPINGS = 4096


class _Reading:
    """One reading: what is odd in it, and whether something went away meanwhile."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.odd: list[str] = []
        self.vanished: list[str] = []

    def text(self, path: str, *, may_lack: bool = False) -> str | None:
        """The text of an attribute; None and a note where there is none."""
        try:
            found = self.files.read(path)
        except KernelRefused as error:
            self.odd.append(f"{path} cannot be read: {error.name}")
            return None
        if found is None and not may_lack:
            self.vanished.append(path)
        return found

    def number(self, path: str) -> int | None:
        """The number in an attribute, not negative, at most 64 bits."""
        text = self.text(path)
        if text is None:
            return None
        found = number_of(text)
        if found is None or not 0 <= found < 1 << 64:
            self.odd.append(f"{path} holds {text[:80]!r} where a number belongs")
            return None
        return found


def look(files: Files, region: str) -> tuple[Value, list[str]]:
    """The sight of a region and what was odd. A region that is not there gives its name alone, and says so."""
    reading = _Reading(files)
    sight: Value = {"region": region}
    for _ in range(TRIES):
        reading = _Reading(files)
        sight = _read(reading, region)
        if not reading.vanished:
            break
    return sight, [*reading.odd, *[f"{path} is not there (any more)" for path in reading.vanished]]


def _read(reading: _Reading, region: str) -> Value:
    sight: Value = {"region": region}
    place = f"{CXL}/{region}"
    if not reading.files.exists(place):
        reading.vanished.append(place)
        return sight
    mode = reading.text(f"{place}/mode")
    if mode:
        sight["mode"] = mode
    under = dax_region(reading.files, region)
    if under is None:
        return sight
    place = f"{CXL}/{under}"
    available = reading.number(f"{place}/dax_region/available_size")
    if available is not None:
        sight["available"] = available
    names = named(reading.files, place, "extent")
    extents = [_extent(reading, f"{place}/{name}", name) for name in names]
    sight["extents"] = [one for one in extents if one is not None]
    sight["names"] = names
    devices = named(reading.files, place, "dax")
    sight["devices"] = [device(reading, name) for name in devices]
    sight["all_devices"] = devices
    return sight


def _extent(reading: _Reading, place: str, name: str) -> Value | None:
    """{"name", "offset", "length", "uuid"}; no uuid file is the null tag; None where it cannot be told."""
    offset, length = reading.number(f"{place}/offset"), reading.number(f"{place}/length")
    uuid = reading.text(f"{place}/uuid", may_lack=True)
    if offset is None or length is None:
        return None
    return {"name": name, "offset": offset, "length": length, "uuid": uuid}


def device(reading: _Reading, name: str) -> Value:
    """{"name", "size", "uuid", "has_uuid", "mappings", "driver", "has_driver"} of a DAX device, as far as it shows."""
    place = f"{DAX}/{name}"
    found: Value = {"name": name}
    size = reading.number(f"{place}/size")
    if size is not None:
        found["size"] = size
    uuid = reading.text(f"{place}/uuid", may_lack=True)
    found |= {"uuid": uuid, "has_uuid": uuid is not None}
    mappings = [_mapping(reading, f"{place}/{one}") for one in _mappings(reading.files, place)]
    if all(one is not None for one in mappings):
        found["mappings"] = mappings
    driver = reading.files.link(f"{place}/driver")
    return found | {"driver": driver, "has_driver": driver is not None}


def mappings_of(files: Files, name: str) -> list[list[int]] | None:
    """[start, end, page_offset] of each mapping of a DAX device; None where one cannot be read."""
    reading = _Reading(files)
    found = [_mapping(reading, f"{DAX}/{name}/{one}") for one in _mappings(files, f"{DAX}/{name}")]
    return None if None in found else [one for one in found if one is not None]


def _mappings(files: Files, place: str) -> list[str]:
    return [name for name in named(files, place, "mapping") if "." not in name][:MOST_MAPPINGS]


def _mapping(reading: _Reading, place: str) -> list[int] | None:
    """[start, end, page_offset]: physical addresses, the end inclusive; pages."""
    values = [reading.number(f"{place}/{name}") for name in ("start", "end", "page_offset")]
    return [value for value in values if value is not None] if None not in values else None


def devices_of(files: Files, region: str) -> list[str]:
    """What stands under the dax region, apart from the files that every device has."""
    under = dax_region(files, region)
    plain = {"subsystem", "uevent", "modalias", "devtype", "driver", "power"}
    return [name for name in files.names(f"{CXL}/{under}") if name not in plain] if under else []


def seen(sight: Value) -> Sight:
    """The Sight of such a value."""
    from ...model.observe import SeenDax, SeenExtent, SeenMapping, Sight

    devices = []
    for one in sight.get("devices", ()):
        mappings = one.get("mappings")
        fields = {**one, "mappings": None if mappings is None else tuple([SeenMapping(*piece) for piece in mappings])}
        devices.append(SeenDax(**fields))
    extents = sight.get("extents")
    return Sight(
        sight["region"],
        sight.get("mode"),
        sight.get("available"),
        None if extents is None else tuple([SeenExtent(**one) for one in extents]),
        tuple(sight["names"]) if "names" in sight else None,
        tuple(devices),
        tuple(sight["all_devices"]) if "all_devices" in sight else None,
    )
