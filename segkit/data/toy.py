"""Procedural data: three families of pictures that need no download and still need a network.

Every picture is drawn from its own seed, so item 7 is the same whether 10 or 10,000 are asked
for, and depicts the same scene at every size. Clutter in the colours of the target, texture,
uneven light, noise and occlusion keep colour alone from solving the task.
"""

from collections.abc import Iterable
from functools import cache
from itertools import repeat

import cv2
import numpy as np

from segkit.data.dataset import Pair, SegmentationDataset
from segkit.data.pets import from_trimap, trimap_classes
from segkit.errors import ArgumentError, one_of

_COUNTS = {"train": 192, "val": 64, "test": 64}  # pictures of a split, unless a number is given

# name: (base colour RGB, pattern). As in Oxford-IIIT Pet, cats are capitalised and dogs are not,
# so that sorting file names puts all cats first.
_BREEDS = {
    "Ash": ((128, 126, 130), "plain"),
    "Coal": ((52, 48, 54), "plain"),
    "Ginger": ((214, 132, 58), "striped"),
    "Tabby": ((150, 126, 98), "striped"),
    "biscuit": ((222, 190, 140), "plain"),
    "chestnut": ((126, 72, 42), "plain"),
    "domino": ((228, 226, 222), "spotted"),
    "pepper": ((196, 194, 196), "spotted"),
}


def _cloud(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Return smooth noise in about -1..1, float32 `(size, size)`, with `cells` bumps a side."""
    coarse = rng.uniform(-1, 1, (cells + 2, cells + 2)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _expose(rng: np.random.Generator, picture: np.ndarray, noise: float) -> np.ndarray:
    """Light a float picture (0..255) unevenly, add sensor noise and return it as uint8."""
    light = (1 + rng.uniform(0.05, 0.3) * _cloud(rng, len(picture), 1)) * rng.uniform(0.8, 1.15)
    grain = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(noise)
    lit = picture * (light[..., None] if picture.ndim == 3 else light) + grain
    return np.clip(lit, 0, 255).astype(np.uint8)


def _points(shape: np.ndarray, size: int) -> np.ndarray:
    """Turn unit coordinates `(n, 2)` into the integer pixels that OpenCV draws with."""
    return np.round(np.asarray(shape) * size).astype(np.int32)


@cache
def _circle(corners: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the x and y of `corners` points around the unit circle."""
    t = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.cos(t), np.sin(t)


def _blob(centre: tuple, axes: tuple, angle: float = 0.0, corners: int = 24) -> np.ndarray:
    """Return an ellipse as a polygon in unit coordinates `(corners, 2)`; angle in radians."""
    cosine, sine = _circle(corners)
    x, y = axes[0] * cosine, axes[1] * sine
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([centre[0] + c * x - s * y, centre[1] + s * x + c * y], axis=1)


def _animal(rng: np.random.Generator, is_cat: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return an animal as polygons in unit coordinates: the parts of its body, and its eyes."""
    shake = rng.uniform(0.9, 1.1, 8)
    long, high = 0.30 * shake[0], (0.17 if is_cat else 0.15) * shake[1]
    head = np.array([-0.30 * shake[2], -0.19 * shake[3]])
    parts = [_blob((0, 0), (long, high)), _blob(head, (0.145, 0.13 * shake[4]))]
    if is_cat:  # pointed ears, long raised tail
        for side in (-0.085, 0.085):
            tip = head + (side * 1.2, -0.235 * shake[5])
            parts.append(np.array([head + (side - 0.06, -0.05), tip, head + (side + 0.06, -0.05)]))
        tail = [(0.24, -0.03), (0.36, -0.10), (0.38 * shake[6], -0.24), (0.33, -0.33 * shake[7])]
    else:  # a muzzle, hanging ears, short tail
        parts.append(_blob(head + (-0.12, 0.045), (0.10 * shake[5], 0.06)))
        parts.append(_blob(head + (0.10, 0.05), (0.05, 0.13 * shake[6]), 0.2))
        tail = [(0.25, -0.04), (0.34 * shake[7], -0.16)]
    parts += [_ribbon(tail, 0.055)]
    for x in (-0.22, -0.12, 0.12, 0.22):
        foot = (x * shake[0] + rng.uniform(-0.05, 0.05), 0.32 * shake[1])
        parts.append(_ribbon([(x, 0.02), foot], 0.075))
    eyes = [_blob(head + (dx, -0.02), (0.02, 0.025), corners=8) for dx in (-0.06, 0.03)]
    return parts, eyes


def _ribbon(path: list, width: float) -> np.ndarray:
    """Return a polyline of unit `width` as a polygon: for tails, legs and blades of grass."""
    path = np.asarray(path, dtype=float)
    ends = np.concatenate([path[:1], path, path[-1:]])
    along = ends[2:] - ends[:-2]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    across *= width / 2 / np.linalg.norm(across, axis=1, keepdims=True)
    return np.concatenate([path + across, (path - across)[::-1]])


def _coat(rng: np.random.Generator, size: int, colour: tuple, pattern: str) -> np.ndarray:
    """Return fur that fills the whole picture, float32 `(size, size, 3)`."""
    colour = np.asarray(colour, np.float32) * rng.uniform(0.85, 1.1) + rng.uniform(-8, 8, 3)
    fur = 1 + 0.08 * _cloud(rng, size, 14)
    if pattern == "striped":
        x = np.linspace(0, 1, size, dtype=np.float32)
        wave = rng.uniform(50, 70) * x + 3 * _cloud(rng, size, 3)
        fur *= 1 - 0.3 * (np.sin(wave) > 0.2)
    elif pattern == "spotted":
        fur *= 1 - 0.65 * (_cloud(rng, size, 9) > 0.35)
    fur *= np.linspace(1.12, 0.8, size, dtype=np.float32)[:, None]  # lit from above
    return fur[..., None] * colour.astype(np.float32)


def _room(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a cluttered background, float32 `(size, size, 3)`, partly in the colours of coats."""
    colour = rng.uniform(60, 200) + rng.uniform(-45, 45, 3)
    picture = np.full((size, size, 3), colour, np.float32)
    coats = [colour for colour, _ in _BREEDS.values()]
    for _ in range(rng.integers(3, 8)):
        near_coat = rng.random() < 0.5
        paint = coats[rng.integers(len(coats))] if near_coat else rng.uniform(20, 235, 3)
        centre, axes = rng.uniform(0, 1, 2), rng.uniform(0.04, 0.22, 2)
        shape = _blob(centre, axes, rng.uniform(0, np.pi), int(rng.choice([3, 4, 24])))
        cv2.fillPoly(picture, [_points(shape, size)], [float(p) for p in paint], cv2.LINE_AA)
    return picture * (1 + 0.15 * _cloud(rng, size, 5))[..., None]


def _pet(rng: np.random.Generator, size: int, breed: str) -> Pair:
    """Draw one pet: uint8 image `(size, size, 3)` and trimap (1 pet, 2 background, 3 border)."""
    colour, pattern = _BREEDS[breed]
    parts, eyes = _animal(rng, is_cat=breed[0].isupper())
    scale, turn, flip = rng.uniform(0.75, 1.25), rng.uniform(-0.35, 0.35), rng.choice([-1, 1])
    centre = np.array([0.5, 0.52]) + rng.uniform(-0.14, 0.14, 2)
    c, s = np.cos(turn), np.sin(turn)
    pose = scale * np.array([[c, -s], [s, c]]) @ np.diag([flip, 1])
    place = [_points(p @ pose.T + centre, size) for p in parts]
    eyes = [_points(p @ pose.T + centre, size) for p in eyes]
    blades = []
    if rng.random() < 0.4:  # something stands in front
        x = rng.uniform(0.2, 0.8, rng.integers(1, 4))
        lean = rng.uniform(-0.15, 0.15, len(x))
        blades = [
            _ribbon([(a, 1.02), (a + b, rng.uniform(0.1, 0.6))], 0.035)
            for a, b in zip(x, lean, strict=True)
        ]
    green = rng.uniform((50, 80, 30), (110, 150, 80))

    picture, fur = _room(rng, size), _coat(rng, size, colour, pattern)
    body = np.zeros((size, size), np.uint8)
    for part in place:
        cv2.fillPoly(body, [part], 1)
    picture = np.where(body[..., None] == 1, fur, picture)
    for eye in eyes:
        cv2.fillPoly(picture, [eye], (20.0, 20.0, 20.0), cv2.LINE_AA)
    for blade in blades:
        cv2.fillPoly(picture, [_points(blade, size)], green.tolist(), cv2.LINE_AA)
        cv2.fillPoly(body, [_points(blade, size)], 0)
    picture = cv2.GaussianBlur(picture, (3, 3), 0.6)
    reach = max(1, round(size / 80))  # the trimap's border is a band along the outline
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    inner = cv2.erode(body, window, borderType=cv2.BORDER_REPLICATE)
    trimap = np.where(inner == 1, 1, np.where(cv2.dilate(body, window) == 1, 3, 2))
    return _expose(rng, picture, noise=rng.uniform(4, 12)), trimap.astype(np.uint8)


def _bone(
    rng: np.random.Generator, top: np.ndarray, bottom: np.ndarray, thick: float
) -> np.ndarray:
    """Return a long bone with a narrow shaft and two wide ends as a polygon in unit coordinates."""
    t = np.linspace(0, 1, 17)
    flare = 1 + 0.9 * np.exp(-(((t - 0) / 0.16) ** 2)) + 0.9 * np.exp(-(((t - 1) / 0.16) ** 2))
    half = thick / 2 * flare * (1 + 0.05 * rng.uniform(-1, 1, (2, len(t))))
    axis = top + t[:, None] * (bottom - top)
    axis += rng.uniform(-0.03, 0.03) * np.sin(np.pi * t)[:, None]  # slightly bowed
    across = np.array([bottom[1] - top[1], top[0] - bottom[0]])
    across = across / np.linalg.norm(across)
    left = axis + half[0][:, None] * across
    right = axis - half[1][:, None] * across
    return np.concatenate([left, right[::-1]])


def _xray(rng: np.random.Generator, size: int, bones: int = 1) -> Pair:
    """Draw a knee-like X-ray: uint8 grey `(size, size)` and mask, 1 femur, 2 tibia or 1 for both.

    The shaft of a bone is hardly brighter than the flesh beside it; only its rim is. What is
    inside has to be concluded from far away.
    """
    turn, gap = rng.uniform(-0.35, 0.35), rng.uniform(0.015, 0.04)
    knee = np.array([0.5, 0.5]) + rng.uniform(-0.12, 0.12, 2)
    bend = rng.uniform(-0.25, 0.25)
    thick = rng.uniform(0.10, 0.16)
    up = np.array([np.sin(turn), -np.cos(turn)])
    directions = up, np.array([-np.sin(turn + bend), np.cos(turn + bend)])
    shapes = [
        _bone(rng, knee + direction * gap, knee + direction * (gap + length), thick)
        for direction, length in zip(directions, rng.uniform(0.42, 0.75, 2), strict=True)
    ]
    flesh_width = thick * rng.uniform(2.6, 3.6)
    far = [knee + direction * 0.9 for direction in directions]
    objects = rng.uniform(0, 1, (3, 2))  # clips, labels: bright, but no bone
    flesh_grey, rim, inside = rng.uniform(60, 95), rng.uniform(35, 60), rng.uniform(8, 22)

    mask = np.zeros((size, size), np.uint8)
    for number, shape in enumerate(shapes, start=1):
        cv2.fillPoly(mask, [_points(shape, size)], min(number, bones))
    flesh = np.zeros((size, size), np.float32)
    path = _points(np.array([far[0], knee, far[1]]), size)
    cv2.polylines(flesh, [path], False, 1.0, max(1, round(flesh_width * size)), cv2.LINE_AA)
    flesh = cv2.GaussianBlur(flesh, (0, 0), size * 0.02)
    solid = (mask > 0).astype(np.uint8)
    depth = cv2.distanceTransform(solid, cv2.DIST_L2, 3) / size
    glow = solid * (inside + rim * np.exp(-depth / 0.012))
    picture = 18 + flesh * flesh_grey * (1 + 0.2 * _cloud(rng, size, 6)) + glow
    for spot, wide in zip(objects, rng.uniform(0.01, 0.05, (3, 2)), strict=True):
        shape = _blob(spot, wide, rng.uniform(0, np.pi), 4)
        layer = np.zeros_like(picture)
        cv2.fillPoly(layer, [_points(shape, size)], rng.uniform(30, 70), cv2.LINE_AA)
        picture += layer
    picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), max(0.4, size * 0.006))
    return _expose(rng, picture, noise=rng.uniform(5, 11)), mask


def _embryo(rng: np.random.Generator, size: int) -> Pair:
    """Draw an embryo: uint8 grey `(size, size)` and mask, 0 background and membrane, 1 cell.

    Cells fill an egg and touch; a membrane of a pixel or two is all that parts them.
    """
    egg = rng.uniform(0.30, 0.44, 2)
    turn = rng.uniform(0, np.pi)
    centre = rng.uniform(0.44, 0.56, 2)
    seeds = []
    for candidate in rng.uniform(-1, 1, (60, 2)):  # keep those well inside and well apart
        inside = np.hypot(*candidate) < 0.95
        far = all(np.hypot(*(candidate - other)) > 0.42 for other in seeds)
        if inside and far:
            seeds.append(candidate)
    seeds = np.array(seeds, np.float32)
    grey = rng.uniform(70, 130, len(seeds)).astype(np.float32)
    nuclei = rng.uniform(0.10, 0.18, len(seeds)).astype(np.float32)
    wall = rng.uniform(0.035, 0.055)
    membrane, outside = rng.uniform(150, 210), rng.uniform(55, 100)

    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size + np.float32(0.5 / size)
    x, y = x - np.float32(centre[0]), y - np.float32(centre[1])
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u, v = (c * x + s * y) / np.float32(egg[0]), (c * y - s * x) / np.float32(egg[1])
    waviness = 0.08 * _cloud(rng, size, 5)
    u, v = u + waviness, v - waviness
    owner = np.zeros(u.shape, np.intp)  # the nearest seed, its distance, and that of the second
    first, second = (np.full(u.shape, np.inf, np.float32) for _ in range(2))
    for index, (a, b) in enumerate(seeds):
        squared = (u - a) ** 2 + (v - b) ** 2
        np.copyto(owner, index, where=squared < first)
        second = np.minimum(second, np.maximum(squared, first))
        first = np.minimum(first, squared)
    first, second = np.sqrt(first), np.sqrt(second)
    radius = np.sqrt(u * u + v * v)
    # half the gap between the two nearest seeds is the distance to the wall between their cells
    to_wall = np.minimum((second - first) / 2, 1 - radius)
    mask = (to_wall > wall).astype(np.uint8)

    picture = np.where(radius < 1, grey[owner], np.float32(outside))
    picture = np.where((to_wall <= wall) & (to_wall > -wall), np.float32(membrane), picture)
    picture = np.where(first < nuclei[owner], picture * np.float32(0.72), picture)
    picture *= 1 + 0.18 * _cloud(rng, size, 10)
    picture = cv2.GaussianBlur(picture, (0, 0), max(0.5, size * 0.009))
    return _expose(rng, picture, noise=rng.uniform(6, 14)), mask


def _generators(family: str, split: str, size: int, count: int | None, seed: int) -> list:
    """Return one generator for each picture of a split; refuse what cannot be painted."""
    one_of("split", split, _COUNTS)
    if not isinstance(size, int | np.integer) or size < 16:
        raise ArgumentError(f"toy pictures are square, at least 16 pixels wide, not size={size!r}")
    if count is not None and count < 1:
        raise ArgumentError(f"count={count}: ask for at least one picture")
    part, n = list(_COUNTS).index(split), count or _COUNTS[split]
    return [np.random.default_rng((seed, *family.encode(), part, i)) for i in range(n)]


def _stacked(pairs: Iterable[Pair]) -> Pair:
    """Return uint8 images `(N, H, W[, 3])` and masks `(N, H, W)`."""
    images, masks = zip(*pairs, strict=True)
    return np.stack(images), np.stack(masks)


def open_toy_pets(
    split: str, size: int, *, border: str, count: int | None = None, seed: int = 0
) -> SegmentationDataset:
    """Return `count` toy pets with their breeds as groups; `border` as for the real pets."""
    known, choosers = list(_BREEDS), _generators("breed", split, size, count, seed)
    breeds = [known[rng.integers(len(known))] for rng in choosers]
    rngs = _generators("toy-pets", split, size, count, seed)
    images, trimaps = _stacked(map(_pet, rngs, repeat(size), breeds))
    masks, class_names = from_trimap(trimaps, border), trimap_classes(border)
    names = [f"{breed}_{i}" for i, breed in enumerate(breeds)]
    info = {"source": "toy-pets", "split": split, "border": border}
    return SegmentationDataset(images, masks, class_names, names, breeds, info=info)


def open_toy_xray(
    split: str, size: int, *, bones: int = 1, count: int | None = None, seed: int = 0
) -> SegmentationDataset:
    """Return `count` toy X-rays; bones=1 marks bone, bones=2 separates femur and tibia."""
    if bones not in (1, 2):
        raise ArgumentError(f"bones={bones}: choose 1 (bone) or 2 (femur and tibia)")
    rngs = _generators("toy-xray", split, size, count, seed)
    class_names = ("background", "bone") if bones == 1 else ("background", "femur", "tibia")
    return SegmentationDataset(*_stacked(_xray(rng, size, bones) for rng in rngs), class_names)


def open_toy_embryo(
    split: str, size: int, *, count: int | None = None, seed: int = 0
) -> SegmentationDataset:
    """Return `count` toy embryos: cells against membranes and background."""
    rngs = _generators("toy-embryo", split, size, count, seed)
    return SegmentationDataset(
        *_stacked(_embryo(rng, size) for rng in rngs), ("background", "cell")
    )
