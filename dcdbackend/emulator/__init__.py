"""The embedded device: a QMP server over the reference model of the device, with a simulated host behind it.

    arguments   the commands, what each takes, QEMU's wordings for what is wrong with them; query-qmp-schema
    wording     why a manager's request is refused, in QEMU's words
    device      one device: `model.reply` behind a mailbox's bytes and a memory window
    switch      the fabric manager's way in, as bytes: 0001h, 5100h, 5101h, the tunnel, 5600h to 5605h
    linux       a simulated kernel host (A, B-rfc, v10, v11) from `model.host`
    machine     devices, hosts and the commands of the monitor
    monitor     the server: QMP over a Unix socket, for any client

It keeps the rules, or behaves as a given version of QEMU is known to (`departures.applicable`). It is not QEMU, and no
second opinion: it shares the model with the judge, so that a scenario that is green here says that judge and emulator
agree, and nothing of any real device or host. It loads no kernel and emulates no PCI; host U is the agent's own code,
over this device's mailbox.
"""

from __future__ import annotations
