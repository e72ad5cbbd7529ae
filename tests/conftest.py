"""Eight virtual CPU devices for every test, set before JAX looks for devices."""

import os

from hypothesis import settings

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

# A first example compiles; how long that takes says nothing about the code under test.
settings.register_profile("compiled", deadline=None, max_examples=25)
settings.load_profile("compiled")
