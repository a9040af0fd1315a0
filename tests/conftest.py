"""What several test files share, and how tests are dealt to workers."""
import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

SERIAL = {"test_chain.py", "test_verify.py", "test_training_queue.py", "test_ray.py"}       # they run chains of processes, so they follow each other


class ByFile(LoadScopeScheduling):
    """The tests of a file stay on one worker, and those of SERIAL on one together."""

    def _split_scope(self, nodeid):
        name = nodeid.split("::")[0].rsplit("/")[-1]
        return "serial" if name in SERIAL else name


def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)


def pytest_collection_modifyitems(items):
    """SERIAL comes first: it takes longest, and the others fill the time beside it."""
    items.sort(key=lambda item: item.path.name not in SERIAL)


@pytest.fixture(scope="module")
def one_thread():
    """Torch with one thread, for the tests of a whole file: two threads on busy cores wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
