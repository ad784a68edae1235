"""Starting the worker process, and which workers are used; how it ends is in test_processes."""

import os
import threading

import pytest

from fedutils import runtime, serving


def refusal() -> BaseException | None:
    """What a new worker's stub raises, within some seconds: it must not wait for ever."""
    raised = []

    def start():
        worker = runtime.Worker()
        try:
            worker.stub()
        except BaseException as error:
            raised.append(error)
        finally:
            worker.stop()

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    thread.join(20)
    return raised[0] if raised else None


def test_worker_that_cannot_be_started_is_told(monkeypatch):
    def without_memory(*arguments, **options):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(runtime.subprocess, "Popen", without_memory)
    error = refusal()
    assert isinstance(error, RuntimeError) and isinstance(error.__cause__, OSError)
    assert "cannot be started: [Errno 12] Cannot allocate memory. Is there memory" in str(error)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["false"], "ended before it answered, with status 1. Is there memory"),
        (["sleep", "60"], "did not answer within 0 s. Is there memory"),
    ],
)
def test_worker_that_does_not_answer_is_told(command, words, monkeypatch):
    monkeypatch.setattr(serving, "command", lambda port: command)
    monkeypatch.setattr(runtime, "_START_SECONDS", 20.0 if command == ["false"] else 0.3)
    error = refusal()
    assert isinstance(error, RuntimeError)
    assert words in str(error)


def test_choice_of_workers_can_be_undone_and_leaves_the_environment_alone(monkeypatch):
    used = []
    monkeypatch.setattr(runtime, "_chosen", "")
    monkeypatch.setattr(runtime, "_context", used.append)
    monkeypatch.setattr(runtime.tff.framework, "set_default_context", lambda context: None)
    monkeypatch.setenv(runtime.WORKERS, "default:1")
    environment = dict(os.environ)
    for addresses in ("", "a:1", "", " "):
        runtime.use_workers(addresses)
        runtime.start()
    assert used == ["default:1", "a:1", "default:1", "default:1"]
    assert dict(os.environ) == environment
