"""What several test files share."""
import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Torch with one thread, for the tests of a whole file: two threads on busy cores wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
