"""The reference model: what the rules permit, as pure functions over values.

`device` is the device; the host generations come beside it. Nothing here reads a clock, a socket or a random number.
"""
