"""What the library's tests need of JAX and the oldest supported JAX has elsewhere."""

import jax

if hasattr(jax, "enable_x64"):
    enable_x64 = jax.enable_x64
else:  # before JAX 0.8
    from jax.experimental import enable_x64  # type: ignore[no-redef]  # noqa: F401
