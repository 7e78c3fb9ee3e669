"""A model of the DVS128's pixels watching simple shapes: which events an event camera would send.

Each pixel follows the logarithm of its light through a low-pass, compares it with the value at its last event,
and sends an event when the difference passes a threshold (Lichtsteiner, Posch and Delbruck 2008; the same
picture as in ESIM, Rebecq et al. 2018, and v2e, Hu et al. 2021):

    s    <- s + a (L - s)             a = w / (1 + w),  w = 2 pi f0 exp(L) dt     the bandwidth grows with light
    event ON  when s - r >= theta_on,   OFF when r - s >= theta_off;   then r <- s for the refractory time

Around it stands what makes real recordings untidy: thresholds that differ from pixel to pixel, background
events, a few hot pixels, and three habits seen in the real clips: an ON event is often read out twice within a
microsecond, a pixel just reset often sends an event of the other polarity within a millisecond, and rows with
much to send show stray events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.compiled import njit
from pipeline.types import require

SIDE = 128
SPILL_PIXELS = 60
"""A stray event lies at most so far from the event that brought it; nearer is likelier."""
NOISE_ON = 0.35
"""Share of ON among background events: 34 % in the quiet corners of the real clips."""
STEP_MS = 1
"""One step of the simulation, and the resolution of times in the files."""


@dataclass(frozen=True)
class Light:
    """What a lighting does to the sensor."""

    name: str
    bandwidth_hz: float
    """Cut-off of a pixel that sees reflectance 1."""
    noise_hz: float
    """Background events per pixel and second."""
    flicker: float
    """Amplitude of the lamps' 100 Hz flicker in log intensity."""
    side: float
    """Log intensity by which one side of the body is brighter than the other."""


# The lightings of the real data set; numbers ours, so that rates and noise span those of the real clips.
LIGHTS = (
    Light("fluorescent", 250.0, 0.14, 0.05, 0.1),
    Light("fluorescent_led", 320.0, 0.11, 0.03, 0.2),
    Light("lab", 140.0, 0.20, 0.02, 0.0),
    Light("led", 200.0, 0.16, 0.0, 0.3),
    Light("natural", 450.0, 0.09, 0.0, 0.5),
)


@dataclass(frozen=True)
class Pixels:
    """The camera: one chip, the same for every recording."""

    theta_on: float = 0.13
    """Rise of log intensity that makes an ON event."""
    theta_off: float = 0.13
    """Fall of log intensity that makes an OFF event."""
    mismatch: float = 0.02
    """Standard deviation of both thresholds over the pixels."""
    refractory_ms: int = 1
    """How long a pixel is held at reset after an event: changes that pass a threshold meanwhile are lost. The default
    is one step, in which a pixel sends one event however far its light moves; 0 is the same. Second read-outs and
    events of the other polarity (`echo`, `rebound`), and strays (`spill`), are no changes: they come within it."""
    echo: float = 0.40
    """Probability that an ON event is read out twice (real clips: 13 % of all intervals are below 2 us)."""
    rebound: tuple[float, float] = (0.15, 0.4)
    """Probability of an event of the other polarity within 1 ms of an OFF and of an ON event."""
    spill: float = 0.12
    """Probability that an event brings a stray one somewhere near in its row, as the real clips' streaks show."""
    hot_pixels: int = 12
    """Pixels that send background events `hot_factor` times as often."""
    hot_factor: float = 40.0

    def __post_init__(self) -> None:
        for name in ("theta_on", "theta_off"):
            require(getattr(self, name) > 0, name, "be above 0", getattr(self, name))
        for name in ("mismatch", "refractory_ms", "hot_factor"):
            require(getattr(self, name) >= 0, name, "be at least 0", getattr(self, name))
        for name in ("echo", "spill"):
            require(0 <= getattr(self, name) <= 1, name, "be in [0, 1]", getattr(self, name))
        pair = len(self.rebound) == 2 and all(0 <= probability <= 1 for probability in self.rebound)
        require(pair, "rebound", "be two numbers in [0, 1]", self.rebound)
        most = SIDE * SIDE
        require(0 <= self.hot_pixels <= most, "hot_pixels", f"be in [0, {most}]", self.hot_pixels)

    def thresholds(self, seed: int) -> np.ndarray:
        """[2, SIDE, SIDE] float32: OFF and ON thresholds of the chip of this seed, at least a third of the mean."""
        rng = np.random.default_rng((seed, 1))
        mean = np.array([self.theta_off, self.theta_on], np.float32).reshape(2, 1, 1)
        spread = rng.normal(0, self.mismatch, (2, SIDE, SIDE)).astype(np.float32)
        return np.maximum(mean + spread, mean / 3)

    def hot(self, seed: int) -> np.ndarray:
        """[hot_pixels] flat indices of the hot pixels of the chip of this seed."""
        return np.random.default_rng((seed, 2)).choice(SIDE * SIDE, self.hot_pixels, replace=False)


@dataclass(frozen=True)
class Scene:
    """What the camera looks at, S steps of STEP_MS: a still background and moving capsules, later ones in front."""

    background: np.ndarray
    """[SIDE, SIDE] float32 log reflectance."""
    shapes: np.ndarray
    """[S, K, 6] float32: x0, y0, x1, y1, r0, r1 of each capsule in pixels; radii below 0 hide it."""
    tones: np.ndarray
    """[K, 3] float32: log reflectance, amplitude of the weave, its stripes per length."""
    softness: float
    """Width in pixels over which an edge goes from one tone to the other."""


def record(scene: Scene, light: Light, pixels: Pixels, chip: int, seed: int) -> np.ndarray:
    """The events [N, 4] int32 (x, y, p, t in ms, ascending) that the chip sends while watching the scene."""
    thresholds, hot = pixels.thresholds(chip), pixels.hot(chip)
    rng = np.random.default_rng((seed, 3))
    steps = len(scene.shapes)
    flicker = (
        light.flicker * np.sin(2 * np.pi * (0.1 * np.arange(steps) + rng.random())) if light.flicker else 0.0
    )
    brightness = (np.zeros(steps) + flicker).astype(np.float32)
    slope = (np.linspace(-0.5, 0.5, SIDE) * light.side * rng.choice((-1, 1))).astype(np.float32)
    per_step = light.noise_hz * STEP_MS / 1000
    noise = rng.poisson(per_step * SIDE * SIDE, steps)
    noise_at = rng.integers(0, SIDE * SIDE, noise.sum())
    hot_noise = rng.poisson(per_step * pixels.hot_factor * len(hot), steps)
    hot_at = hot[rng.integers(0, len(hot), hot_noise.sum())] if len(hot) else np.zeros(0, np.int64)
    omega = np.float32(2 * np.pi * light.bandwidth_hz * STEP_MS / 1000)
    draws = np.uint64(rng.integers(1, 2**63))
    room = 1 << 18
    while True:
        out = np.empty((room, 4), np.int32)
        count = _simulate(
            scene.background, scene.shapes, scene.tones, np.float32(scene.softness), slope, brightness, omega,
            thresholds, pixels.refractory_ms, pixels.echo, pixels.rebound[0], pixels.rebound[1], pixels.spill,
            noise, noise_at, hot_noise, hot_at, draws, out,
        )  # fmt: skip
        if count <= room:
            return out[:count]
        room = count  # the same run again, from the same draws, now with room for all


@njit(nogil=True, cache=True)
def _uniform(state: np.ndarray) -> float:
    """The next number in [0, 1) of xorshift64*, so that every recording has its own reproducible stream."""
    x = state[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    state[0] = x
    return ((x * np.uint64(0x2545F4914F6CDD1D)) >> np.uint64(11)) * (1.0 / (1 << 53))


@njit(nogil=True, cache=True)
def _draw(shapes: np.ndarray, tones: np.ndarray, softness: np.float32, image: np.ndarray) -> None:
    """Blend the capsules of one step over the log image: soft edges, darker towards the rim, striped along."""
    for k in range(len(shapes)):
        x0, y0, x1, y1, r0, r1 = shapes[k]
        if r0 < 0:
            continue
        reach = max(r0, r1) + softness
        left, right = int(max(0, min(x0, x1) - reach)), int(min(SIDE - 1, max(x0, x1) + reach))
        top, bottom = int(max(0, min(y0, y1) - reach)), int(min(SIDE - 1, max(y0, y1) + reach))
        ax, ay = x1 - x0, y1 - y0
        scale = np.float32(1.0) / max(ax * ax + ay * ay, np.float32(1e-6))
        for row in range(top, bottom + 1):
            for column in range(left, right + 1):
                bx, by = column - x0, row - y0
                u = min(max((bx * ax + by * ay) * scale, np.float32(0)), np.float32(1))
                dx, dy = bx - u * ax, by - u * ay
                radius = r0 + u * (r1 - r0)
                distance = np.sqrt(dx * dx + dy * dy)
                cover = np.float32(0.5) + (radius - distance) / softness
                if cover <= 0:
                    continue
                rim = distance / radius
                stripe = u * tones[k, 2]
                tone = tones[k, 0] - np.float32(0.3) * rim * rim
                tone += tones[k, 1] * (abs(stripe - np.floor(stripe) - np.float32(0.5)) * 4 - 1)
                image[row, column] += min(cover, np.float32(1)) * (tone - image[row, column])


@njit(nogil=True, cache=True)
def _simulate(
    background: np.ndarray,
    shapes: np.ndarray,
    tones: np.ndarray,
    softness: np.float32,
    slope: np.ndarray,
    brightness: np.ndarray,
    omega: np.float32,
    thresholds: np.ndarray,
    refractory: int,
    echo: float,
    rebound_off: float,
    rebound_on: float,
    spill: float,
    noise: np.ndarray,
    noise_at: np.ndarray,
    hot_noise: np.ndarray,
    hot_at: np.ndarray,
    seed: np.uint64,
    out: np.ndarray,
) -> int:
    """Fill `out` with events; returns how many there are, which may be more than `out` holds."""
    draws = np.empty(1, np.uint64)
    draws[0] = seed
    image = background.copy()
    _draw(shapes[0], tones, softness, image)
    light = image + slope + brightness[0]  # s: what the pixel believes
    last = light.copy()  # r: its value at the last event
    ready = np.zeros((SIDE, SIDE), np.int32)
    due = np.empty((SIDE * SIDE, 3), np.int64)  # rebounds of the next step: column, row, polarity
    count = waiting = first_noise = first_hot = 0
    for step in range(1, len(shapes)):
        image[:] = background
        _draw(shapes[step], tones, softness, image)
        for k in range(waiting):
            count = _send(out, count, due[k, 0], due[k, 1], due[k, 2], step)
        waiting = 0
        for k in range(noise[step] + hot_noise[step]):
            where = noise_at[first_noise + k] if k < noise[step] else hot_at[first_hot + k - noise[step]]
            p = 1 if _uniform(draws) < NOISE_ON else 0
            count = _send(out, count, where % SIDE, where // SIDE, p, step)
        first_noise += noise[step]
        first_hot += hot_noise[step]
        for row in range(SIDE):
            _follow(image[row], slope, brightness[step], omega, light[row])
            for column in range(SIDE):
                change = light[row, column] - last[row, column]
                if -thresholds[0, row, column] < change < thresholds[1, row, column]:
                    continue
                last[row, column] = light[row, column]
                if step < ready[row, column]:
                    continue  # still held at reset: this change is lost
                ready[row, column] = step + refractory
                p = 1 if change > 0 else 0
                count = _send(out, count, column, row, p, step)
                if p and _uniform(draws) < echo:
                    count = _send(out, count, column, row, p, step)
                if _uniform(draws) < (rebound_on if p else rebound_off):
                    if _uniform(draws) < 0.5:
                        count = _send(out, count, column, row, 1 - p, step)
                    else:
                        due[waiting, 0], due[waiting, 1], due[waiting, 2] = column, row, 1 - p
                        waiting += 1
                if _uniform(draws) < spill:
                    aside = column + int(SPILL_PIXELS * (_uniform(draws) + _uniform(draws) - 1))
                    if 0 <= aside < SIDE:
                        count = _send(out, count, aside, row, int(2 * _uniform(draws)), step)
    return count


@njit(nogil=True, cache=True)
def _follow(
    image: np.ndarray, slope: np.ndarray, lamp: np.float32, omega: np.float32, light: np.ndarray
) -> None:
    """One step of the low-pass of a row; free of branches, so that it runs several pixels at a time."""
    for column in range(SIDE):
        target = image[column] + slope[column] + lamp
        speed = max(np.float32(1) + target * np.float32(0.125), np.float32(0))
        speed *= speed
        speed *= speed
        speed *= speed * omega  # (1 + L / 8)^8, which is exp(L) near the mid tones
        light[column] += (target - light[column]) * (speed / (np.float32(1) + speed))


@njit(nogil=True, cache=True, inline="always")
def _send(out: np.ndarray, count: int, x: int, y: int, p: int, t: int) -> int:
    if count < len(out):
        out[count, 0], out[count, 1], out[count, 2], out[count, 3] = x, y, p, t
    return count + 1
