"""The machine: files and locks, digests, disk, signals, processes, memory and compiling."""
