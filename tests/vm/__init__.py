"""Tests that boot a real QEMU."""
