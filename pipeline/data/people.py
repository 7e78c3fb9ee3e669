"""People who perform the 11 gestures of DVS Gesture, drawn from a seed: their bodies, habits and movements.

All of it is ours, made by looking at the ten real clips: the numbers below were chosen so that event rate and
spatial extent of each gesture come out near them, and so that users differ enough that the place of the events
alone does not give the gesture away. Body coordinates: the origin at the neck, x to the right of the picture
(the person's left), y downwards, in sensor pixels of a person of size 1. Side -1 is the person's right hand,
which the camera sees on the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.data.dvs import SIDE, STEP_MS, Scene

NAMES = (
    "hand clapping", "right hand wave", "left hand wave", "right arm clockwise", "right arm counter-clockwise",
    "left arm clockwise", "left arm counter-clockwise", "arm roll", "air drums", "air guitar", "other gestures",
)  # fmt: skip
UPPER, FORE = 22.0, 22.0
"""Lengths of upper arm and forearm of a person of size 1."""
SHOULDER = np.array([15.0, 7.0])
CHEST, HIPS, CROWN, CHIN = (np.array([0.0, y]) for y in (14, 60, -12, -7))
APART = np.array([9.0, 0.0])
Rng = np.random.Generator


class Hands(NamedTuple):
    """Paths of the two hands in body coordinates, [S, 2] each; elbows None: where the arm bends by itself."""

    right: np.ndarray
    left: np.ndarray
    right_elbow: np.ndarray | None = None
    left_elbow: np.ndarray | None = None


@dataclass(frozen=True)
class User:
    """One person: body, place before the camera, habits. Same in all recordings of that person."""

    size: float
    place: tuple[float, float]
    """Neck in sensor pixels."""
    speed: float
    """Factor on every tempo."""
    reach: float
    """Factor on every amplitude."""
    sway: float
    """Amplitude in pixels of the body's own motion."""
    shirt: float
    skin: float
    """Log reflectance."""
    long_sleeves: bool
    thickness: float
    habits: int
    """Seed of how this person does each gesture."""


def user(number: int, seed: int) -> User:
    """User `number` (1 to 29) of the population `seed`."""
    rng = np.random.default_rng((seed, 10, number))
    return User(
        size=rng.uniform(0.85, 1.25),
        place=(rng.uniform(44, 84), rng.uniform(36, 62)),
        speed=rng.uniform(0.85, 1.4),
        reach=rng.uniform(0.85, 1.15),
        sway=rng.uniform(0.4, 2.5),
        shirt=rng.uniform(-1.9, -0.6),
        skin=rng.uniform(-0.5, -0.1),
        long_sleeves=bool(rng.random() < 0.4),
        thickness=rng.uniform(0.95, 1.35),
        habits=int(rng.integers(2**31)),
    )


class Beat:
    """The time base of one recording: phases that run at a tempo of their own and wander a little."""

    def __init__(self, steps: int, speed: float, rng: Rng) -> None:
        self.seconds = np.arange(steps) * STEP_MS / 1000
        self._speed, self._rng = speed, rng

    def phase(self, hz: float) -> np.ndarray:
        """[S] radians of a movement of `hz` cycles per second, from a random start."""
        wander = 1 + 0.08 * self.drift(0.7)
        start = self._rng.uniform(0, 2 * np.pi)
        return start + np.cumsum(2 * np.pi * hz * self._speed * wander) * STEP_MS / 1000

    def drift(self, hz: float) -> np.ndarray:
        """[S] a slow random curve of about `hz`, mostly within -1 and 1."""
        total = np.zeros(len(self.seconds))
        for factor in (0.6, 1.0, 1.7):
            total += np.sin(2 * np.pi * hz * factor * self.seconds + self._rng.uniform(0, 2 * np.pi))
        return total / 2.2

    def still(self, x: float, y: float, restless: float = 0.6) -> np.ndarray:
        """[S, 2] a hand held near a point."""
        return np.stack([x + restless * self.drift(0.6), y + restless * self.drift(0.5)], axis=1)


def move(label: int, beat: Beat, person: User, rng: Rng) -> Hands:
    """The hands of `person` performing gesture `label` (0 to 10): its habits, varied by `rng`."""
    habits = np.random.default_rng((person.habits, label))
    reach = person.reach * rng.uniform(0.93, 1.07)
    if label == 0:
        return _clap(beat, habits, reach)
    if label in (1, 2):
        return _wave(beat, habits, reach, side=-1 if label == 1 else 1)
    if label in (3, 4, 5, 6):
        # clockwise as the person sees it is counter-clockwise in the picture
        return _circle(beat, habits, reach, side=-1 if label < 5 else 1, turn=-1 if label in (3, 5) else 1)
    if label == 7:
        return _roll(beat, habits, reach)
    if label == 8:
        return _drum(beat, habits, reach)
    if label == 9:
        return _guitar(beat, habits, reach)
    return _other(beat, rng, reach)


def _sided(side: int, moving: np.ndarray, idle: np.ndarray, elbow: np.ndarray | None = None) -> Hands:
    """Hands where one side moves and the other is idle."""
    return Hands(moving, idle, elbow) if side < 0 else Hands(idle, moving, None, elbow)


def _idle(beat: Beat, habits: Rng, side: int) -> np.ndarray:
    """A hand that has nothing to do: hanging, on the hip, or before the chest."""
    x, y = ((17.0, 48.0), (13.0, 36.0), (6.0, 26.0))[habits.choice(3, p=(0.6, 0.2, 0.2))]
    restless = habits.uniform(0.6, 5.0)  # some gesticulate with the other hand
    return beat.still(side * (x + habits.uniform(-2, 2)), y + habits.uniform(-3, 3), restless)


def _clap(beat: Beat, habits: Rng, reach: float) -> Hands:
    phase = beat.phase(habits.uniform(1.6, 3.2))
    height = habits.uniform(14, 34) + 1.5 * beat.drift(0.5)
    middle = habits.uniform(-5, 5)
    open_ = habits.uniform(8, 17) * reach
    gap = 2.0 + open_ * (0.5 - 0.5 * np.cos(phase)) ** habits.uniform(0.7, 1.3)
    tilt = habits.uniform(-0.5, 0.5)
    right = np.stack([middle - gap, height + tilt * gap], axis=1)
    left = np.stack([middle + gap, height - tilt * gap], axis=1)
    return Hands(right, left)


def _wave(beat: Beat, habits: Rng, reach: float, side: int) -> Hands:
    phase = beat.phase(habits.uniform(1.3, 2.6))
    elbow = beat.still(side * habits.uniform(15, 33), habits.uniform(8, 30))
    swing = habits.uniform(0.35, 0.95) * reach
    angle = side * habits.uniform(-0.5, 0.7) + swing * np.sin(phase) + 0.05 * beat.drift(0.6)
    length = FORE * habits.uniform(0.85, 1.1)
    hand = elbow + length * np.stack([np.sin(angle), -np.cos(angle)], axis=1)
    return _sided(side, hand, _idle(beat, habits, -side), elbow)


def _circle(beat: Beat, habits: Rng, reach: float, side: int, turn: int) -> Hands:
    phase = turn * beat.phase(habits.uniform(0.6, 1.0))
    radius = habits.uniform(0.4, 0.95) * (UPPER + FORE) * reach
    centre = np.array([side * habits.uniform(13, 26), 7.0 + habits.uniform(-8, 14)])
    width, tilt = habits.uniform(0.75, 1.0), habits.uniform(-0.5, 0.5)
    x, y = width * radius * np.cos(phase), radius * np.sin(phase)
    path = np.stack([np.cos(tilt) * x - np.sin(tilt) * y, np.sin(tilt) * x + np.cos(tilt) * y], axis=1)
    return _sided(side, centre + path, _idle(beat, habits, -side))


def _roll(beat: Beat, habits: Rng, reach: float) -> Hands:
    phase = habits.choice((-1, 1)) * beat.phase(habits.uniform(1.1, 2.2))
    height = habits.uniform(18, 36)
    wide, high = habits.uniform(3, 8) * reach, habits.uniform(7, 12) * reach
    cross = habits.uniform(2, 8)
    turn = np.stack([wide * np.cos(phase), high * np.sin(phase)], axis=1)
    return Hands(
        np.array([cross, height]) + turn,
        np.array([-cross, height]) - turn,
        beat.still(-habits.uniform(20, 27), height + 3),
        beat.still(habits.uniform(20, 27), height + 3),
    )


def _drum(beat: Beat, habits: Rng, reach: float) -> Hands:
    phase = beat.phase(habits.uniform(1.4, 2.7))
    apart = np.pi * habits.uniform(0.7, 1.3)
    spread, height = habits.uniform(7, 18), habits.uniform(24, 42)
    stroke, slant = habits.uniform(7, 14) * reach, habits.uniform(-0.3, 0.5)

    def hand(side: int, beat_phase: np.ndarray) -> np.ndarray:
        up = np.abs(np.sin(beat_phase / 2)) * 2 - 1  # a bounce: quick at the drum, slow above it
        return np.stack([side * (spread + slant * stroke * up), height - stroke * up], axis=1)

    elbows = habits.uniform(18, 25)
    return Hands(
        hand(-1, phase), hand(1, phase + apart), beat.still(-elbows, 26.0), beat.still(elbows, 26.0)
    )  # fmt: skip


def _guitar(beat: Beat, habits: Rng, reach: float) -> Hands:
    side = 1 if habits.random() < 0.1 else -1  # one in ten plays left-handed
    phase = beat.phase(habits.uniform(2.0, 3.6))
    across = habits.uniform(5, 10) * reach
    slope = habits.uniform(0.7, 1.5)
    strum = np.stack([side * across * 0.5 * np.sin(phase), slope * across * np.sin(phase)], axis=1)
    belly = np.array([side * habits.uniform(2, 13), habits.uniform(30, 46)])
    neck = beat.still(-side * habits.uniform(24, 36), habits.uniform(8, 26), restless=2.5)
    return _sided(side, belly + strum, neck, beat.still(side * habits.uniform(19, 25), 26.0))


def _other(beat: Beat, habits: Rng, reach: float) -> Hands:
    """Something else: each take makes up one of eight movements that are none of the ten."""
    kind = habits.integers(8)
    phase = beat.phase(habits.uniform(0.7, 1.6))
    side = int(habits.choice((-1, 1)))
    idle = _idle(beat, habits, -side)
    if kind == 0:  # both arms raised and lowered sideways
        angle = 1.3 * reach * np.sin(phase)
        wing = 38 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return Hands(np.array([-15.0, 7]) + wing * (-1, 1), np.array([15.0, 7]) + wing)
    if kind == 1:  # one arm raised high and lowered
        return _sided(
            side, np.stack([side * (22 + 4 * np.cos(phase)), 12 - 30 * reach * np.sin(phase)], axis=1), idle
        )
    if kind == 2:  # a lying eight drawn with one hand
        eight = np.stack(
            [side * 14 + 18 * reach * np.sin(phase), 20 + 12 * reach * np.sin(2 * phase)], axis=1
        )
        return _sided(side, eight, idle)
    if kind == 3:  # both hands swing to and fro together
        both = np.stack([16 * reach * np.sin(phase), 26 + 4 * np.cos(2 * phase)], axis=1)
        return Hands(both - APART, both + APART)
    if kind == 4:  # a salute: from the hip to the head and back
        lift = 0.5 - 0.5 * np.cos(phase)
        hip, head = np.array([side * 18.0, 44]), np.array([side * 9.0, -12])
        return _sided(side, hip + lift[:, None] * (head - hip), idle)
    if kind == 5:  # a raised forearm pumped up and down
        pump = beat.still(side * 22, 0, 1.0) + np.stack([0 * phase, 11 * reach * np.sin(1.6 * phase)], axis=1)
        return _sided(side, pump, idle)
    if kind == 6:  # one hand turns a small wheel before the chest
        wheel = 11 * reach * np.stack([np.cos(1.5 * phase), np.sin(1.5 * phase)], axis=1)
        return _sided(side, np.array([side * 4.0, 26]) + wheel, idle)
    # both arms turn in mirrored circles
    x, y = 20 * reach * np.cos(phase), 20 * reach * np.sin(phase)
    return Hands(np.stack([-26 - x, 10 + y], axis=1), np.stack([26 + x, 10 + y], axis=1))


def _elbow(shoulder: np.ndarray, hand: np.ndarray, side: int) -> np.ndarray:
    """[S, 2] elbow of an arm that hangs outwards; an arm longer than its way bends, partly towards the camera."""
    way = hand - shoulder
    length = np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-3)
    bend = np.sqrt(np.maximum(UPPER**2 - (length / 2) ** 2, 0))
    across = np.stack([-way[:, 1], way[:, 0]], axis=1) / length
    across *= np.where((across[:, :1] * side + 0.5 * across[:, 1:]) > 0, 1, -1)
    return shoulder + way / 2 + 0.6 * bend * across


def scene(label: int, person: User, steps: int, seed: int) -> Scene:
    """The person performing gesture `label` for `steps` steps; `seed` varies what no two takes have in common."""
    rng = np.random.default_rng((seed, 4))
    beat = Beat(steps, person.speed * rng.uniform(0.93, 1.07), rng)
    hands = move(label, beat, person, rng)
    size = person.size * rng.uniform(0.95, 1.05)
    sway = np.stack([person.sway * beat.drift(0.8), 0.4 * person.sway * beat.drift(0.9)], axis=1)
    neck = np.array(person.place) + rng.normal(0, 2.0, 2) + sway
    nod = np.stack([0.6 * beat.drift(1.1), 0.4 * beat.drift(1.3)], axis=1)
    shirt, skin = person.shirt, person.skin
    sleeve = shirt if person.long_sleeves else skin
    weave = rng.uniform(0.0, 0.1)
    shapes: list[np.ndarray] = []
    tones: list[tuple[float, float, float]] = []

    def add(a: np.ndarray, b: np.ndarray, r0: float, r1: float, tone: float, stripes: float) -> None:
        start, end = neck + size * a, neck + size * b
        radii = np.tile(np.array([r0, r1]) * size, (steps, 1))
        shapes.append(np.concatenate([np.broadcast_to(start, (steps, 2)), end, radii], axis=1))
        tones.append((tone, weave if stripes else 0.0, stripes))

    zero = np.zeros((steps, 2))
    add(zero + CHEST, zero + HIPS, 15.5, 13.5, shirt, 5.0)
    add(zero + nod + CROWN, zero + nod + CHIN, 8.0, 6.5, skin, 0.0)
    for side, hand, elbow in ((-1, hands.right, hands.right_elbow), (1, hands.left, hands.left_elbow)):
        shoulder = zero + SHOULDER * (side, 1)
        joint = _elbow(shoulder, hand, side) if elbow is None else elbow
        thick = person.thickness
        add(shoulder, joint, 4.6 * thick, 3.8 * thick, shirt - 0.1, 2.0)
        add(joint, hand, 3.7 * thick, 2.9 * thick, sleeve, 2.5)
        fingers = hand - joint
        fingers = 4.0 * fingers / np.maximum(np.linalg.norm(fingers, axis=1, keepdims=True), 1e-3)
        add(hand, hand + fingers, 4.0 * thick, 3.0 * thick, skin, 1.5)
    return Scene(
        background=_room(rng),
        shapes=np.stack(shapes, axis=1).astype(np.float32),
        tones=np.array(tones, np.float32),
        softness=float(rng.uniform(1.4, 2.2)),
    )


def _room(rng: Rng) -> np.ndarray:
    """[SIDE, SIDE] log reflectance of a wall with soft shades, and a few upright and level edges."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    wall = rng.uniform(-1.7, -1.1) + 0.3 * np.sin(3 * columns + rng.uniform(0, 6)) * np.cos(
        2 * rows + rng.uniform(0, 6)
    )
    for _ in range(rng.integers(2, 6)):
        left, width = rng.uniform(0, 1), rng.uniform(0.02, 0.25)
        wall += rng.uniform(-0.4, 0.4) * (
            (columns > left) & (columns < left + width) & (rows > rng.uniform(-0.5, 0.8))
        )
    return wall.astype(np.float32)
