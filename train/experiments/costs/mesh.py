"""What a device of a mesh holds, and what the devices exchange in a step, without the devices.

A process takes the number of its virtual CPU devices once, when JAX starts. So the steps are
compiled, and never run, in a short process of its own (`python -m` this module), which has as many
as the mesh. XLA shares the program out as it would on accelerators; what a GPU's compiler does to
it later, such as an all-reduce of which each device needs a part made a reduce-scatter, does not
show, and exchanges of bfloat16 may be counted in float32, which a CPU makes of it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from train.config.plain import run_config, to_dict
from train.config.run import MeshConfig, RunConfig
from train.experiments.costs.hlo import collective_bytes
from train.inspection.plan import make_plan
from train.records.kinds import MeshCost
from train.step.program import compile_ahead
from train.step.sharding import AXES, make_mesh, mesh_shape
from train.tasks import task_of

EIGHT = MeshConfig(data=1, fsdp=8)
"""One node of accelerators that share one copy of parameters and state."""

_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""What comes after the program's text, which is all that is read, may be left out."""


def measure_mesh_costs(
    configs: Sequence[RunConfig], mesh: MeshConfig = EIGHT, *, timeout: float = 600
) -> list[MeshCost | str]:
    """Compiles a step of every run for a mesh; for a nano model that takes some 3 seconds each.

    Args:
      configs: The runs; their own meshes do not matter.
      mesh: The mesh; `data` counts as 1 where it is None.
      timeout: Seconds for all of them together.

    Returns:
      In the order given, the costs, or a sentence that says why there are none.
    """
    shape = mesh_shape(mesh)
    runs = [dataclasses.replace(config, mesh=mesh) for config in configs]
    devices = f"--xla_force_host_platform_device_count={math.prod(shape)}"
    path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{devices} {_QUICK}", "PYTHONPATH": path}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "train.experiments.costs.mesh"],
            input=json.dumps([to_dict(config) for config in runs]).encode(),
            env={**os.environ, **environment},
            capture_output=True,
            timeout=timeout,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return [f"compiling for {_name(shape)} took more than {timeout:g} seconds"] * len(runs)
    except (OSError, subprocess.CalledProcessError) as error:
        printed = getattr(error, "stderr", None) or str(error).encode()
        last = printed.decode(errors="replace").strip().splitlines()[-1:]
        return [f"compiling for {_name(shape)} failed: {' '.join(last)}"] * len(runs)
    found = json.loads(done.stdout.splitlines()[-1])
    return [cost if isinstance(cost, str) else MeshCost(**cost) for cost in found]


def mesh_cost(config: RunConfig) -> MeshCost:
    """The cost of one run's step on its mesh, in a process that has as many devices.

    Raises:
      ValueError: If the mesh does not divide the batch or a dimension of the model.
    """
    shape = mesh_shape(config.mesh)
    memory = make_plan(config).memory
    text = compile_ahead(config, task_of(config), make_mesh(config.mesh)).as_text()
    return MeshCost(
        mesh=_name(shape),
        devices=math.prod(shape),
        parameter_bytes=memory.parameters,
        state_bytes=memory.optimizer_state,
        collective_bytes=collective_bytes(text or ""),
    )


def _name(shape: tuple[int, int, int]) -> str:
    """The axes along which there are several devices, such as `fsdp=8`."""
    named = (f"{axis}={n}" for axis, n in zip(AXES, shape, strict=True) if n > 1)
    return ", ".join(named) or "1 device"


def _main() -> None:
    """Reads configurations as JSON, writes one line of it: costs and sentences."""
    found: list[object] = []
    for fields in json.load(sys.stdin):
        try:
            found.append(dataclasses.asdict(mesh_cost(run_config(fields))))
        except ValueError as error:
            found.append(str(error))
    print(json.dumps(found))


if __name__ == "__main__":
    _main()
