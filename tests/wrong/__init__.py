"""Devices and hosts that are wrong on purpose, one clause each: the judge must convict every one by name."""
