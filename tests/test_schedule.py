from __future__ import annotations

import pytest

from lib_masactrl.errors import SettingsError
from lib_masactrl.schedule import ControlWindow, default_start_layer


@pytest.mark.parametrize(("layers", "start"), [(16, 10), (70, 44)])
def test_default_start_layers_are_the_authors(layers, start):
    assert default_start_layer(layers) == start


def test_the_window_is_half_open_in_steps_and_unbounded_in_layers():
    window = ControlWindow(start_step=4, end_step=6, start_layer=10)
    covered = {(step, layer) for step in range(8) for layer in range(16) if window.covers(step, layer)}
    assert covered == {(step, layer) for step in (4, 5) for layer in range(10, 16)}


@pytest.mark.parametrize(
    ("window", "steps", "expected"),
    [
        (ControlWindow(4, None, 0), 50, 46),
        (ControlWindow(4, 10, 0), 50, 6),
        (ControlWindow(4, 10, 0), 8, 4),
        (ControlWindow(50, None, 0), 50, 0),
        (ControlWindow(60, None, 0), 50, 0),
    ],
)
def test_step_count_equals_counting(window, steps, expected):
    assert window.step_count(steps) == expected == sum(window.covers_step(step) for step in range(steps))


def test_layer_count_equals_counting():
    for start in (0, 10, 16, 20):
        window = ControlWindow(0, None, start)
        assert window.layer_count(16) == sum(window.covers(0, layer) for layer in range(16))


@pytest.mark.parametrize(
    ("first_pass", "goes_on"),
    [
        (ControlWindow(4, None, 10), True),
        (ControlWindow(4, 50, 10), True),
        (ControlWindow(4, 49, 10), False),
        (ControlWindow(50, None, 10), False),
    ],
)
def test_a_second_pass_is_controlled_throughout_if_control_was_on_when_the_first_ended(first_pass, goes_on):
    second_pass = first_pass.continued(steps=50)
    assert [second_pass.covers(step, 10) for step in range(20)] == [goes_on] * 20
    assert not second_pass.covers(0, 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, None, 0), "start_step is -1"),
        ((0, -2, 0), "end_step is -2"),
        ((0, None, -3), "start_layer is -3"),
        ((5, 4, 0), "end_step is 4, before start_step 5"),
    ],
)
def test_impossible_windows_are_refused_by_name(arguments, message):
    with pytest.raises(SettingsError, match=message):
        ControlWindow(*arguments)
