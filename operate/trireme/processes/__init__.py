"""Processes of one machine: a tritonserver, its stubs, ports, shared memory, and processes that are supervised."""
