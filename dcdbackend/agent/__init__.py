"""What runs inside the guest: the userspace host ("host U") that answers a Dynamic Capacity Device.

The same package, started by the guest's init as `python3 -m dcdbackend.agent`. It takes every device through its
PCI registers, without a kernel driver, does what the controller asks over the link, and judges each step there and
then with the same model that the controller uses.

    sysfs      small files of the kernel, read and written within bounds
    pci        which functions there are, their configuration space, drivers, host bridges
    registers  blocks of device registers, and the capabilities in them
    mailbox    the primary mailbox: load, read back, ring, reply
    window     CEDT, HDM decoders, loads and stores through /dev/mem
    device     one memory device, taken
    port       the controller's end of the virtio port: framing, acknowledgement, hang-ups
    journal    operations as history frames, written ahead of the doorbell
    commands   history operations <-> mailbox commands
    policy     how host U answers, and which rules it breaks when told to
    judge      the guest's own judgement: the device's conduct and the host's, apart
    host       host U: events in, answers out
    control    what the controller may ask
    kernel/    the kernel host, in place of host U: the kernel's own DCD answers, and this drives and watches it
    __main__   the loop

It is synchronous (one thread, one `select`), because that is what a host's driver is, and because asyncio costs a
quarter of a second to import under TCG. It imports the standard library, construct, crcmod and the layers below
only; a test holds the list of modules. Nothing here knows QEMU: what is read from registers is checked, not assumed.
"""
