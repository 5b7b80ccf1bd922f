import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from interpolants.training import load_checkpoint, save_checkpoint


def test_what_was_saved_is_loaded(tmp_path):
    flat = torch.arange(6.0)
    tensors = {"a": flat[:4].view(2, 2), "b": flat[4:], "c": torch.ones(3, dtype=torch.bfloat16)}
    path = save_checkpoint(tmp_path / "x.safetensors", tensors, {"config": "{}"})
    loaded, metadata = load_checkpoint(path)
    assert metadata == {"config": "{}"}
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path / "x.safetensors", {"a": torch.ones(1)}, {})
    monkeypatch.setattr(
        "os.fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"a": torch.zeros(1)}, {})
    assert os.listdir(tmp_path) == ["x.safetensors"]
    assert load_checkpoint(path)[0]["a"] == 1


@pytest.mark.parametrize("kept", [0, 4, 9, 40, 120, -1])
def test_a_truncated_checkpoint_is_recognised(tmp_path, kept):
    path = save_checkpoint(tmp_path / "x.safetensors", {"a": torch.ones(16)}, {"config": "{}"})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="is not a checkpoint, or is damaged"):
        load_checkpoint(path)


def test_a_pickle_is_refused_unexecuted(tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    (tmp_path / "x.safetensors").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "x.safetensors")
    assert not (tmp_path / "executed").exists()


def test_other_files_are_refused(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no checkpoint of this version of interpolants"):
        load_checkpoint(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.safetensors")
