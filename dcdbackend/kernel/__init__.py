"""The host kernel under test, from the controller's side: `agent` asks it, `session` runs a scenario on it.

Two kernels fit `bench.Kernel`: the one in a guest (`agent.AgentKernel`, through the agent), and the simulated one on an
emulated device (`simulated.SimulatedKernel`). Scenarios see no difference; results say which it was (`seen`).

Nothing is judged here: what the kernel did goes into the history as its files, its trace and its log show it, and the
checker infers from these the commands that nobody sees.
"""
