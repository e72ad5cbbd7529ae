"""Eight virtual CPU devices for every test, set before JAX looks for devices."""

import os

from hypothesis import settings

collect_ignore = ["fuzz/__main__.py"]
"""Its package is not in the environment: `make fuzz`."""

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # Nearly all of the suite's time is compilation of programs that run for milliseconds.
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        # The emitters of fusions that go through MLIR make compiling five times as long. JAX 0.12
        # has no others, and overlooks this.
        "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
        # Programs are otherwise split, to be compiled by many threads: these are too small for it.
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
)

# A first example compiles; how long that takes says nothing about the code under test.
settings.register_profile("compiled", deadline=None, max_examples=25)
settings.load_profile("compiled")
