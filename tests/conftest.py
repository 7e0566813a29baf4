"What tests of several files share."

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def built_once(tmp_path_factory, worker_id):
    "`built_once(name, make)`: the folder that `make(folder)` fills, filled once also where several workers ask for it."
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent  # the parent is common to all workers of a run

    def build(name, make):
        folder, outcome = base / f"{name}-once", base / f"{name}-once.txt"
        with FileLock(base / f"{name}-once.lock"):
            if not outcome.exists():
                folder.mkdir()
                outcome.write_text("failed, see the first test that asked for it")
                make(folder)
                outcome.write_text("done")
        if (said := outcome.read_text()) != "done":
            pytest.fail(f"{name}: {said}", pytrace=False)
        return folder

    return build
