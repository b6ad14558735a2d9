"""The policy lab: traces of tenants played to simulated hosts, what came of it as numbers, and a picture of it.

It is there to compare designs, the ones of kernels and the ones that no kernel has. It measures nothing of QEMU or of
any kernel: hosts and device are the models, and time is simulated.
"""
