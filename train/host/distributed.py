"""Several processes become one run: each finds the others, once, before JAX looks for devices.

Who the others are is said by flags, by SkyPilot's variables, or by what JAX itself knows of SLURM,
Open MPI and Kubernetes; a process that nothing of this speaks of is alone. One process a node, with
all of its GPUs, is the rule; `local_devices` deals the GPUs out where there are more.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax

PORT = 8476
"""Where process 0 listens if nobody says otherwise."""

SHUTDOWN_SECONDS = 60
"""How long a process that ends, well or badly, waits for the others."""


@dataclass(frozen=True)
class HostsConfig:
    """Who takes part; SLURM, Open MPI, Kubernetes and SkyPilot answer by themselves.

    Raises:
      ValueError: If the flags contradict each other or one is missing.
    """

    coordinator: str | None = None
    """Address and free port of process 0, the same for all processes, such as `10.0.0.1:8476`."""
    process_count: int | None = None
    """Processes of the run; 1 trains alone, whatever the environment says."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    local_devices: tuple[int, ...] = ()
    """GPUs of this node that this process uses, such as `0 1`; by default all that it sees."""
    timeout: int = 300
    """Seconds to wait for the others."""

    def __post_init__(self) -> None:
        """Refuses what could never work."""
        if self.timeout < 1:
            raise ValueError(f"--hosts.timeout {self.timeout} is not at least 1 second.")
        if self.process_count is not None and self.process_count < 1:
            raise ValueError(f"--hosts.process-count {self.process_count} is not at least 1.")
        flags = ("coordinator", "process_count", "process_id")
        missing = [name for name in flags if getattr(self, name) is None]
        if self.process_count != 1 and 0 < len(missing) < len(flags):
            names = " and ".join(f"--hosts.{name.replace('_', '-')}" for name in missing)
            raise ValueError(f"{names} missing: the three flags of a process belong together.")
        if self.coordinator is not None:
            host, _, port = self.coordinator.rpartition(":")
            if not (port.isdecimal() and 0 < int(port) < 2**16):
                raise ValueError(
                    f"--hosts.coordinator {self.coordinator} has no port: write "
                    f"{host or self.coordinator}:{PORT}."
                )


class Place(NamedTuple):
    """A process's place among the others; None is for JAX to find out."""

    coordinator: str | None = None
    process_count: int | None = None
    process_id: int | None = None


def find_place(config: HostsConfig, environment: Mapping[str, str]) -> Place | None:
    """Where this process stands among several, or None if it is alone.

    Args:
      config: The flags; they come before the environment.
      environment: The process's variables.

    Raises:
      ValueError: If a rank is missing or out of range, or two counts differ.

    Example:
      >>> find_place(HostsConfig(), {}) is None
      True
      >>> sky = {"SKYPILOT_NODE_IPS": "10.0.0.1\\n10.0.0.2", "SKYPILOT_NODE_RANK": "1"}
      >>> find_place(HostsConfig(), sky)
      Place(coordinator='10.0.0.1:8476', process_count=2, process_id=1)
      >>> find_place(HostsConfig(), {"SLURM_STEP_NUM_TASKS": "2"})  # set by srun
      Place(coordinator=None, process_count=None, process_id=None)
    """
    if config.process_count is not None:
        place = Place(config.coordinator, config.process_count, config.process_id)
    elif "SKYPILOT_NODE_IPS" in environment:
        place = _skypilot(environment)
    else:
        return Place() if _launched(environment) else None
    if place.process_count == 1:
        return None
    if place.process_id is None or not 0 <= place.process_id < (place.process_count or 0):
        raise ValueError(
            f"process id {place.process_id} is not one of {place.process_count} processes, "
            "which are counted from 0."
        )
    return place


def _skypilot(environment: Mapping[str, str]) -> Place:
    addresses = environment["SKYPILOT_NODE_IPS"].split()
    count = int(environment.get("SKYPILOT_NUM_NODES", len(addresses)))
    if count != len(addresses):
        raise ValueError(
            f"SKYPILOT_NUM_NODES={count} and SKYPILOT_NODE_IPS names {len(addresses)} nodes: "
            "the job was not started by SkyPilot as a whole; start it again, or use --hosts flags."
        )
    if "SKYPILOT_NODE_RANK" not in environment:
        raise ValueError("SKYPILOT_NODE_RANK is missing beside SKYPILOT_NODE_IPS: set it from 0.")
    return Place(f"{addresses[0]}:{PORT}", count, int(environment["SKYPILOT_NODE_RANK"]))


def _launched(environment: Mapping[str, str]) -> bool:
    """Whether one of JAX's launchers started this process together with others."""
    sizes = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    # How many pods an indexed job has, only Kubernetes can say.
    kubernetes = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys()
    return kubernetes or any(int(environment.get(size, 1)) > 1 for size in sizes)


def refuse_several_processes(command: str, environment: Mapping[str, str]) -> None:
    """Refuses to do, several times at once, what one process does alone.

    Args:
      command: The word after `python -m train`.
      environment: The process's variables.

    Raises:
      ValueError: If a launcher started this process together with others.
    """
    if jax.process_count() > 1 or find_place(HostsConfig(), environment) is not None:
        raise ValueError(
            f"python -m train {command} is the work of one process, which uses all devices of its "
            "node, and this is one of several: start it once, such as by `srun --ntasks 1` or "
            "`mpirun -n 1`, or train each configuration by `python -m train run`."
        )


def init_distributed(config: HostsConfig) -> int:
    """Joins the other processes, if there are any; call it before anything touches a device.

    Args:
      config: The flags, empty where the environment says it all.

    Returns:
      This process's number, 0 where it is alone.

    Raises:
      ValueError: If the first process cannot be found or cannot listen. If another one stays away,
        JAX ends this process when the time is over.
    """
    place = find_place(config, os.environ)
    if place is None:
        return 0
    if place.process_id:
        _wait_for_first(place, config.timeout)
    elif place.process_count:
        _check_port(place)
        # What JAX prints if it has to give up does not say what it waited for.
        print(
            f"waiting up to {config.timeout} seconds for {place.process_count - 1} other processes "
            f"to come to {place.coordinator}",
            file=sys.stderr,
        )
    # A run stops by `host.signals`; JAX's own handler would swallow a SIGTERM while compiling.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            *place,
            # Not None: JAX would give a process of SLURM or Open MPI one GPU (jax#16788).
            local_device_ids=list(config.local_devices),
            initialization_timeout=config.timeout,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"JAX could not bring the processes of this job together ({reason}): see that the "
            "coordinator's port is free, say who takes part by --hosts.coordinator, "
            "--hosts.process-count and --hosts.process-id, or train alone by "
            "--hosts.process-count 1."
        ) from error
    return jax.process_index()


def _check_port(place: Place) -> None:
    """Refuses a port that is taken, on which JAX can end this process without an exception."""
    port = int((place.coordinator or "").rpartition(":")[2])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise ValueError(
            f"process 0 cannot listen at {place.coordinator} ({error}): see that the coordinator's "
            "port is free."
        ) from error


def _wait_for_first(place: Place, timeout: int) -> None:
    """Waits until process 0 listens: JAX itself would end this process without an exception."""
    address = place.coordinator or ""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"process {place.process_id} of {place.process_count} did not find process 0 "
                    f"at {address} within {timeout} seconds ({error}): see that it is started, "
                    "that the address is the same for all, and that the port is open."
                ) from error
        time.sleep(0.2)
