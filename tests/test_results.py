import fcntl
import queue
import subprocess
import sys
import threading
import time

import pytest

from fedutils import results


def test_a_killed_writer_never_leaves_half_a_file(tmp_path):
    """A process that rewrites a file without end is killed; the file is always whole."""
    script = (
        "import sys, pathlib; from fedutils import results\n"
        "for k in range(10**9):\n"
        "    rows = [{'round': i, 'value': k} for i in range(2000)]\n"
        "    results.write_rows(pathlib.Path(sys.argv[1]), rows)\n"
    )
    path = tmp_path / "records.csv"
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", script, str(path)])
        while not path.exists():
            time.sleep(0.01)
        time.sleep(0.3)
        process.kill()
        process.wait()
        rows = results.read_rows(path)
        assert len(rows) == 2000
        assert len({row["value"] for row in rows}) == 1
        path.unlink()


def test_rows_round_trip_with_gaps(tmp_path):
    rows = [{"round": 0, "a": None}, {"round": 1, "a": 0.5, "late": 3}]
    results.write_rows(tmp_path / "x.csv", rows)
    assert results.read_rows(tmp_path / "x.csv") == [
        {"round": "0", "a": "", "late": ""},
        {"round": "1", "a": "0.5", "late": "3"},
    ]
    assert results.read_rows(tmp_path / "none.csv") == []


def test_folder_is_keyed_by_all_that_decides(tmp_path):
    def folder(config, decides):
        return results.open_run(tmp_path, "run", config, decides).folder

    first = folder({"seed": 1}, {"code": "a"})
    assert folder({"seed": 1}, {"code": "a"}) == first
    assert folder({"seed": 2}, {"code": "a"}) != first
    assert folder({"seed": 1}, {"code": "b"}) != first


HOLD = (
    "import sys; from fedutils import results\n"
    "with results.Run(sys.argv[1]).locked():\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


def test_second_process_waits_and_says_who_holds_the_run(tmp_path):
    run = results.open_run(tmp_path, "run", {}, {})

    def start():
        return subprocess.Popen(
            [sys.executable, "-c", HOLD, run.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    with start() as holder:
        assert holder.stdout.readline() == "held\n"
        waiter = start()
        said = waiter.stdout.readline()
        assert f"held by process {holder.pid}" in said and said.endswith("; waiting\n")
        assert waiter.poll() is None
        holder.stdin.close()
        assert waiter.stdout.readline() == "held\n"
        waiter.stdin.close()
        assert (holder.wait(30), waiter.wait(30)) == (0, 0)


def test_name_of_who_has_just_taken_a_folder_is_waited_for(tmp_path, monkeypatch):
    """It is written right after the lock is taken: for a moment there is none."""
    unnamed, named, said = threading.Event(), threading.Event(), queue.Queue()
    monkeypatch.setattr(results.time, "sleep", lambda seconds: unnamed.set() or named.wait(60))
    monkeypatch.setattr("builtins.print", lambda text, **_: said.put(text))

    def wait():
        with results.locked(tmp_path):
            said.put("held")

    waiter = threading.Thread(target=wait, daemon=True)
    with (tmp_path / ".lock").open("ab", buffering=0) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiter.start()
        assert unnamed.wait(60) and said.empty()
        lock.write(b"process 7 on another")
        named.set()
        assert said.get(timeout=60) == f"{tmp_path.name} is held by process 7 on another; waiting"
        assert said.empty()
    assert said.get(timeout=60) == "held"
    waiter.join()


def test_publish_keeps_other_entries(tmp_path):
    runs = []
    for seed in (1, 2):
        config = {"recipe": "none", "data": {"name": "synthetic"}, "seed": seed}
        config |= {} if seed == 1 else {"model": "dense"}
        run = results.open_run(tmp_path / "store", f"none-synthetic-seed{seed}", config, {})
        results.write_rows(run.records_path, [{"round": 0, "test_accuracy": 0.1 * seed}])
        run.finish({"commit": f"c{seed}"})
        runs.append(run)
        results.publish([run], tmp_path / "published")
    table = results.tidy(runs)
    assert table["seed"].tolist() == [1, 2]
    assert table["model"].tolist() == ["cnn", "dense"]
    assert table["test_accuracy"].tolist() == pytest.approx([0.1, 0.2])
    published = sorted(p.name for p in (tmp_path / "published" / "records").iterdir())
    assert published == ["none-synthetic-seed1.csv", "none-synthetic-seed2.csv"]
    text = (tmp_path / "published" / "provenance.json").read_text()
    assert '"c1"' in text and '"c2"' in text


def test_records_of_other_settings_are_not_replaced_without_a_word(tmp_path, capsys):
    for rounds, said in [(30, ""), (30, ""), (10, "held a run with rounds 30 (now 10)")]:
        run = results.open_run(tmp_path / "store", "none-toy-seed1", {"rounds": rounds}, {})
        results.write_rows(run.records_path, [{"round": 0}])
        run.finish({"commit": "c"})
        results.publish([run], tmp_path / "published")
        printed = capsys.readouterr().out
        assert said in printed and bool(said) == bool(printed)
    config = results.origins_of(tmp_path / "published")["none-toy-seed1"]["config"]
    assert config == {"rounds": 10}


PUBLISH = (
    "import sys; from fedutils import results\n"
    "for k in range(20):\n"
    "    run = results.Run(sys.argv[1])\n"
    "    results.publish([run], sys.argv[2], name_of=lambda run: f'{sys.argv[3]}{k}')\n"
)


def test_two_that_publish_at_once_lose_nothing(tmp_path):
    """As two notebooks do that are executed at the same time."""
    run = results.open_run(tmp_path / "store", "run", {}, {})
    results.write_rows(run.records_path, [{"round": 0}])
    run.finish({"commit": "c"})
    command = [sys.executable, "-c", PUBLISH, run.folder, tmp_path / "published"]
    both = [subprocess.Popen([*command, name]) for name in "ab"]
    assert [process.wait(60) for process in both] == [0, 0]
    assert len(results.origins_of(tmp_path / "published")) == 40


def test_leftovers_of_a_killed_process_are_removed_by_the_next(tmp_path):
    run = results.open_run(tmp_path, "run", {}, {})
    run.checkpoints.mkdir()
    halves = [
        run.folder / "records.csv.17.partial",
        run.checkpoints / "round_000001.npz.17.partial",
    ]
    for path in halves:
        path.write_text("half")
    with run.locked():
        assert not any(path.exists() for path in halves)
