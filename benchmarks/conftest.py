"""What pytest leaves out where PyTorch is not installed, which is no dependency."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["parts/torch_model.py"]
