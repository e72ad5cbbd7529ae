"""Eight virtual CPU devices for every test, set before JAX looks for devices."""

import os

from hypothesis import settings

collect_ignore = ["fuzz.py"]
"""Its package is not in the environment: `make fuzz`."""

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # Nearly all of the suite's time is compilation of programs that run for milliseconds.
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    ]
)

# A first example compiles; how long that takes says nothing about the code under test.
settings.register_profile("compiled", deadline=None, max_examples=25)
settings.load_profile("compiled")
