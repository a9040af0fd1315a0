"""What several test files share."""
import pytest
import torch


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The tests of a file stay on one worker of `--dist loadgroup`, and all that are marked `serial` on another, one after the other."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("serial" if item.get_closest_marker("serial") else item.path.stem))


@pytest.fixture(scope="module")
def one_thread():
    """Torch with one thread, for the tests of a whole file: two threads on busy cores wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
