"""What is kept is found again, bounded, and never trusted blindly."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from safetensors import SafetensorError

from lib_masactrl.inversion import SourceTrajectory
from lib_masactrl.trajectory_cache import TrajectoryCache, cache_key

SIGMAS = (0.0, 1.5, 14.6)
SIZE = 3 * 4 * 8 * 8 * 4


def trajectory(seed: int) -> SourceTrajectory:
    noise = torch.Generator().manual_seed(seed)
    return SourceTrajectory(SIGMAS, tuple(torch.randn(1, 4, 8, 8, generator=noise) for _ in SIGMAS))


def equal(one: SourceTrajectory | None, other: SourceTrajectory) -> bool:
    if one is None or (one.returned is None) != (other.returned is None):
        return False
    returned = one.returned is None or torch.equal(one.returned, other.returned)
    return returned and one.sigmas == other.sigmas and all(map(torch.equal, one.latents, other.latents))


def checked(seed: int) -> SourceTrajectory:
    return dataclasses.replace(trajectory(seed), returned=trajectory(seed + 100).latents[0])


def test_the_least_recently_used_goes_first():
    cache = TrajectoryCache(2 * SIZE)
    cache.put("a", trajectory(1))
    cache.put("b", trajectory(2))
    assert equal(cache.get("a"), trajectory(1))
    cache.put("c", trajectory(3))
    assert cache.get("b") is None and equal(cache.get("a"), trajectory(1)) and equal(cache.get("c"), trajectory(3))
    assert (len(cache), cache.size) == (2, 2 * SIZE)
    cache.configure(SIZE, None)
    assert len(cache) == 1 and cache.get("c") is not None


def test_what_is_larger_than_the_limit_is_not_kept_and_drives_nothing_out():
    cache = TrajectoryCache(SIZE)
    cache.put("a", trajectory(1))
    larger = SourceTrajectory((0.0, 1.0), (torch.zeros(1, 4, 99, 99),) * 2)
    cache.put("large", larger)
    assert cache.get("large") is None and cache.get("a") is not None
    off = TrajectoryCache(0)
    off.put("a", trajectory(1))
    assert len(off) == 0


def test_files_outlive_the_process(tmp_path):
    TrajectoryCache(9 * SIZE, tmp_path / "new" / "folder").put("a", trajectory(1))
    later = TrajectoryCache(9 * SIZE, tmp_path / "new" / "folder")
    assert equal(later.get("a"), trajectory(1)) and later.get("b") is None
    assert [path.suffix for path in (tmp_path / "new" / "folder").iterdir()] == [".safetensors"]  # nothing half-written
    assert len(later) == 1, "what was read once is in memory"
    later.clear()
    assert len(later) == 0 and equal(later.get("a"), trajectory(1))


def test_a_check_is_kept_with_its_trajectory_and_counted(tmp_path):
    """Also over an earlier file without one, which is still found."""
    cache = TrajectoryCache(2 * SIZE, tmp_path)
    cache.put("a", trajectory(1))
    assert equal(TrajectoryCache(2 * SIZE, tmp_path).get("a"), trajectory(1))
    cache.put("a", checked(1))
    assert cache.size == SIZE + SIZE // 3 and equal(cache.get("a"), checked(1))
    assert equal(TrajectoryCache(2 * SIZE, tmp_path).get("a"), checked(1))


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_files_are_bounded_too(tmp_path, limit):
    """By the least recently used; the newest stays, whatever its header adds to the size that is limited."""
    cache = TrajectoryCache(int((limit + 0.5) * SIZE), tmp_path)
    for number in range(5):
        cache.put(str(number), trajectory(number))
    again = TrajectoryCache(9 * SIZE, tmp_path)
    assert [number for number in range(5) if again.get(str(number))] == [0, 1, 2, 3, 4][-limit:]
    exact = TrajectoryCache(SIZE, tmp_path)
    exact.put("6", trajectory(6))
    assert [path.name for path in tmp_path.iterdir()] == ["masactrl-6.safetensors"]


@pytest.mark.parametrize(
    "damage", ["empty", "cut", "text", "other", "sigmas", "level", "nan", "returned", "returned-nan"]
)
def test_a_damaged_file_is_discarded_with_a_warning(tmp_path, caplog, damage):
    TrajectoryCache(9 * SIZE, tmp_path).put("a", trajectory(1))
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    if damage == "other":
        file = file.rename(tmp_path / "masactrl-b.safetensors")
    elif damage == "nan":
        broken = trajectory(1)
        broken.latents[1][0, 0, 0, 0] = torch.nan
        TrajectoryCache(9 * SIZE, tmp_path).put("a", broken)
    elif damage.startswith("returned"):
        latents = torch.zeros(1, 4, 8, 7) if damage == "returned" else torch.full((1, 4, 8, 8), torch.nan)
        TrajectoryCache(9 * SIZE, tmp_path).put("a", dataclasses.replace(trajectory(1), returned=latents))
    else:
        damaged = {"empty": b"", "cut": content[:-50], "text": b"no trajectory" * 40}
        damaged["sigmas"] = content.replace(b"[0.0, 1.5, 14.6]", b"[1.5, 0.0, 14.6]")
        damaged["level"] = content.replace(b"[0.0, 1.5, 14.6]", b"[0.0, 1.5, 1.50]")
        assert damaged[damage] != content
        file.write_bytes(damaged[damage])
    with caplog.at_level(logging.WARNING):
        assert TrajectoryCache(9 * SIZE, tmp_path).get("b" if damage == "other" else "a") is None
    assert "damaged" in caplog.text and not file.exists()


def test_a_folder_that_cannot_be_written_is_only_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = TrajectoryCache(9 * SIZE, tmp_path / "file")
    cache.put("a", trajectory(1))
    assert "could not be kept" in caplog.text and equal(cache.get("a"), trajectory(1))


def test_keys_tell_everything_apart():
    parts = [torch.zeros(2, 2), torch.zeros(4), torch.zeros(4, dtype=torch.float16), torch.ones(4), "0", 0, None, ""]
    assert len({cache_key([part]) for part in parts}) == len(parts)
    assert cache_key(["a", "bc"]) != cache_key(["ab", "c"]) and cache_key([1, 23]) != cache_key([12, 3])
    assert cache_key([torch.ones(4), "x"]) == cache_key([torch.ones(4).clone(), "x"])


@pytest.mark.parametrize("error", [OSError("no space left"), SafetensorError("No space left on device")])
def test_a_full_disk_is_told_and_nothing_half_written_stays(tmp_path, monkeypatch, caplog, error):
    def full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise error

    monkeypatch.setattr("lib_masactrl.trajectory_cache.save_file", full)
    cache = TrajectoryCache(9 * SIZE, tmp_path)
    cache.put("a", trajectory(1))
    assert equal(cache.get("a"), trajectory(1)) and not list(tmp_path.iterdir())
    assert "could not be kept on disk" in caplog.text
