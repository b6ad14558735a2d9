"""The kernel host: the guest's own DCD support does the answering, and this makes it, uses it and looks at it.

Started by `--kernel`. The kernel's driver has the memory devices, so nothing here touches their registers: it writes
and reads the files of sysfs, maps /dev/daxN.M, and reads the trace and the log. `cxl` and `daxctl` are not needed;
where they are installed, they are one more witness. Every path is below a root, so that a recorded tree can stand in
for the running system.

    files     a file of the kernel read or written; a refusal keeps its errno and what was written
    survey    which generation of DCD this kernel has, by what sysfs offers; what it lacks
    modules   drivers loaded and unloaded; a device that its driver gave up on, brought back
    region    regions made and destroyed
    dax       DAX devices: created, claimed, bound, onlined, destroyed
    data      bytes and patterns through a mapping of a DAX device
    sight     what sysfs shows of a region, as the value that the model compares
    tool      what `cxl list` and `daxctl list` show of the same, where they are installed
    trace     the cxl_dynamic_capacity events
    log       the kernel's log, and what in it is an alarm
    raw       a mailbox command through the kernel
    host      the requests, one table
    follow    what was seen held against the model, there and then
    watch     the same alone, on a machine with no controller

It decides nothing (scenarios do) and never falls back: what the kernel refuses is told as it was refused. No list of
versions is kept either: a kernel is what it shows. Imported only when asked for: host U pays nothing for it.
"""
