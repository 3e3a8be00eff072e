"""Bad places and bad moments, through the command itself: full disks, Ctrl-C, odd names, pipes."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from spahgc.demo.st_study import StSection, write_st_study
from spahgc.store.care import verify_store
from spahgc.store.cohort import open_cohort

ARRAY = np.array([(x, y) for y in range(10, 22) for x in range(20, 32)])


def section(name, *, seed):
    generator = np.random.default_rng(seed)
    return StSection(
        name=name,
        array=ARRAY,
        offsets=np.zeros(ARRAY.shape),
        centers=30.0 + 40 * (ARRAY - [20, 10]),
        is_measured=np.ones(len(ARRAY), np.bool_),
        counts=generator.poisson(2.0, (len(ARRAY), 60)).astype(np.uint32),
        genes=tuple(f"G{n}" for n in range(60)),
        image=generator.integers(0, 255, (500, 500, 3), dtype=np.uint8),
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two sections as a study publishes them."""
    folder = tmp_path_factory.mktemp("study")
    write_st_study(folder, section("A1", seed=1), section("B1", seed=2))
    return folder


@pytest.fixture(scope="module")
def filled(study, tmp_path_factory):
    """A store of one slide, to be copied."""
    store = tmp_path_factory.mktemp("filled") / "data.zarr"
    done = run(store, *one(study, "A1"))
    assert (done.returncode, done.stderr) == (0, "")
    return store


@pytest.fixture
def store(filled, tmp_path):
    return shutil.copytree(filled, tmp_path / "store" / "data.zarr")


def one(study, name, *options):
    return (
        f"--counts={study / 'ST-cnts' / name}.tsv.gz",
        f"--spots={study / 'ST-spotfiles' / name}_selection.tsv",
        f"--image={study / 'ST-imgs' / name[0] / name / name}.jpg",
        *options,
    )


def command(store, *arguments):
    start = [sys.executable, "-m", "spahgc.cli", "ingest", "st"]
    return [*start, *map(str, arguments), "--no-embed", "--store", str(store)]


def run(store, *arguments, **how):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(store, *arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment,
        **how,
    )


def fingerprint(folder):
    """Digest names, times and content of everything below a folder."""
    digest = sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path.relative_to(folder)} {path.lstat().st_mtime_ns}".encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def assert_one_clear_line(done, *parts):
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    for part in parts:
        assert part in line


def assert_holds_only_the_first(store):
    assert verify_store(store, deep=True) == []
    assert list(open_cohort(store).slides) == ["A1"]
    assert open_cohort(store)["A1"].read_counts().shape == (len(ARRAY), 60)


def full_beyond(n_bytes):
    """Let no file grow beyond a size, as on a disk that is full."""
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def test_a_full_disk_is_one_line_earlier_slides_stay_and_the_next_run_completes(study, store):
    before = fingerprint(study)
    for n_bytes in (0, 5_000, 50_000):
        done = run(store, *one(study, "B1"), preexec_fn=full_beyond(n_bytes))
        assert_one_clear_line(done, str(store), "cannot be written", "File too large")
        assert_holds_only_the_first(store)
        assert fingerprint(study) == before
    done = run(store, *one(study, "B1"))
    assert (done.returncode, done.stderr) == (0, "")
    assert verify_store(store, deep=True) == []
    assert list(open_cohort(store).slides) == ["A1", "B1"]


def test_a_store_that_cannot_be_made_leaves_nothing_behind(study, tmp_path):
    done = run(tmp_path / "new.zarr", *one(study, "A1"), preexec_fn=full_beyond(100))
    assert_one_clear_line(done, "new.zarr cannot be made: File too large")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc to fail on")
@pytest.mark.parametrize("place", ["/proc/data.zarr", "/dev/null/x.zarr"])
def test_a_place_that_cannot_be_written_is_one_line(study, place):
    assert_one_clear_line(run(Path(place), *one(study, "A1")), place)


def test_a_file_or_another_folder_in_the_stores_place_is_one_line(study, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes").write_text("mine")
    before = fingerprint(tmp_path)
    for name in ("file", "folder"):
        done = run(tmp_path / name, *one(study, "A1"))
        assert_one_clear_line(done, name, "is not a spahgc store", "--store")
    assert fingerprint(tmp_path) == before


@pytest.fixture
def heeded_ctrl_c():
    """Undo what a shell does to a command that it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(store, study, moment):
    """Press Ctrl-C at some moment of an ingest."""
    with subprocess.Popen(
        command(store, study),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    ) as process:
        if moment == "reading":
            wait_until_python_runs_the_command(process)
        else:
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    return process, said


@pytest.mark.parametrize("moment", ["reading", "after the first slide"])
@pytest.mark.usefixtures("heeded_ctrl_c")
def test_ctrl_c_is_quiet_and_the_next_run_completes(study, tmp_path, moment):
    before = fingerprint(study)
    for attempt in range(5):  # on a busy machine all may be done before the key is pressed
        store = tmp_path / f"data{attempt}.zarr"
        process, said = interrupted(store, study, moment)
        if process.returncode != 0:
            break
    assert process.returncode != 0
    assert said.split() == ["Aborted!"]
    if store.exists():
        assert verify_store(store, deep=True) == []
    done = run(store, study)
    assert (done.returncode, done.stderr) == (0, "")
    assert verify_store(store, deep=True) == []
    assert list(open_cohort(store).slides) == ["A1", "B1"]
    assert fingerprint(study) == before


def wait_until_python_runs_the_command(process):
    """Wait for numpy's library, which the command loads once it has begun."""
    maps = Path(f"/proc/{process.pid}/maps")
    if not maps.exists():
        pytest.skip("no /proc to see from what a process has loaded")
    for _ in range(2000):
        if "_multiarray_umath" in maps.read_text():
            return
        time.sleep(0.005)
    pytest.fail("the command never began")


@pytest.mark.parametrize("name", ["../x", "CON", "a/b"])
def test_a_name_that_is_none_is_refused_and_nothing_lands_elsewhere(study, store, name):
    around = store.parent
    before = fingerprint(around)
    done = run(store, *one(study, "B1", f"--name={name}"), cwd=around)
    assert_one_clear_line(done, repr(name), "cannot name a slide", "--name")
    assert fingerprint(around) == before


def test_another_slide_of_a_name_needs_replace(study, store):
    named = one(study, "B1", "--name=A1")
    before = fingerprint(store)
    assert_one_clear_line(run(store, *named), "A1", "--replace")
    assert fingerprint(store) == before
    old = open_cohort(store)["A1"].read_counts()
    done = run(store, *named, "--replace")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("A1: replaced")
    assert verify_store(store, deep=True) == []
    assert (open_cohort(store)["A1"].read_counts() != old).nnz > 0


def test_a_bad_slide_among_good_ones_is_told_and_the_others_are_stored(study, tmp_path):
    mixed = shutil.copytree(study, tmp_path / "study")
    (mixed / "ST-cnts" / "A1.tsv.gz").write_bytes(b"")
    before = fingerprint(mixed)
    done = run(tmp_path / "data.zarr", mixed)
    assert done.returncode == 1
    first, last = done.stderr.splitlines()
    assert first.startswith("A1: ")
    assert "A1.tsv.gz is empty" in first
    assert last == "Error: 1 of 2 slides not ingested: A1"
    assert list(open_cohort(tmp_path / "data.zarr").slides) == ["B1"]
    assert fingerprint(mixed) == before


def test_what_a_terminal_would_obey_in_names_of_files_is_shown_escaped(study, tmp_path):
    shouting = tmp_path / "\x1b[31mA1.tsv.gz"
    shutil.copy(study / "ST-cnts" / "A1.tsv.gz", shouting)
    done = run(tmp_path / "data.zarr", "--counts", str(shouting), "--name", "A1")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"counts: \x1b[31mA1.tsv.gz" in done.stdout
    assert "\x1b" not in done.stdout
    shouting.write_text("no table")
    done = run(tmp_path / "data.zarr", "--counts", str(shouting), "--name", "B1")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "\x1b" not in done.stderr


def test_a_pipe_that_closes_early_is_no_traceback(study, store):
    reading, writing = os.pipe()
    os.close(reading)  # as after `| head -0`
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run(
            command(store, *one(study, "B1")),
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 1
    assert verify_store(store, deep=True) == []


@pytest.mark.parametrize("options", [["--json"], ["--dry-run"]], ids=["stored", "dry"])
def test_input_is_byte_for_byte_what_it_was(study, tmp_path, options):
    before = fingerprint(study)
    done = run(tmp_path / "data.zarr", study, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert fingerprint(study) == before
    assert (tmp_path / "data.zarr").exists() == ("--dry-run" not in options)
