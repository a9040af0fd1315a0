"""What jobs of the chain find loaded may not have started a thread or looked for a GPU."""
import os
import subprocess
import sys

from acgan.kernel import job_environment

PROGRAM = """
import importlib, os, sys
import torch
torch.cuda.is_available = torch.cuda.device_count = torch.cuda.init = None          # whoever calls one fails
from acgan.kernel import libraries
for name in libraries():
    importlib.import_module(name)
print(len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1, torch.cuda.is_initialized())
"""


def test_what_is_loaded_beforehand_starts_no_thread_and_wakes_no_gpu():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=os.environ | job_environment())
    assert done.stdout == "1 False\n", done.stderr[-2000:]
