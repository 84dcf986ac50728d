"""ICC profiles for tests, written from the numbers of their standards, and the colors that they stand for."""

import struct

import numpy as np
from jaxtyping import Float

# Chromaticities of red, green and blue, the white point and the exponent of the tone curve.
D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)
SRGB = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)), D65, 2.2
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), D65, 2.2
ADOBE_RGB = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060)), D65, 563 / 256
PROPHOTO = ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), D50, 1.8
Primaries = tuple[tuple[tuple[float, float], ...], tuple[float, float], float]
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def xyz(chromaticity: tuple[float, float]) -> np.ndarray:
    x, y = chromaticity
    return np.array([x / y, 1, (1 - x - y) / y])


def to_xyz(primaries: Primaries) -> Float[np.ndarray, "3 3"]:
    """Linear colors to XYZ as ICC profiles have it, adapted to D50 by Bradford's matrix."""
    points, white, _ = primaries
    columns = np.stack([xyz(point) for point in points], axis=1)
    matrix = columns * np.linalg.solve(columns, xyz(white))
    gains = (BRADFORD @ xyz(D50)) / (BRADFORD @ xyz(white))
    return np.linalg.inv(BRADFORD) @ np.diag(gains) @ BRADFORD @ matrix


def to_srgb(pixels: np.ndarray, primaries: Primaries) -> np.ndarray:
    """What 8 bit colors of these primaries are in sRGB, computed without any profile."""
    linear = (pixels / 255) ** primaries[2]
    linear = linear @ (np.linalg.inv(to_xyz((SRGB[0], D65, 0))) @ to_xyz(primaries)).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def rgb_profile(primaries: Primaries) -> bytes:
    matrix = to_xyz(primaries)
    tags = {f"{name}XYZ".encode(): xyz_tag(column) for name, column in zip("rgb", matrix.T, strict=True)}
    return profile(b"RGB ", b"XYZ ", tags | {f"{name}TRC".encode(): curve_tag(primaries[2]) for name in "rgb"})


def gray_profile(exponent: float) -> bytes:
    return profile(b"GRAY", b"XYZ ", {b"kTRC": curve_tag(exponent)})


def cmyk_profile() -> bytes:
    """Ink that only darkens: L* falls by 25 with each full ink, and no ink has a color."""
    inks = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1).reshape(16, 4)
    lab = np.stack([255 - inks.sum(1) * 255 / 4, np.full(16, 128), np.full(16, 128)], axis=1).round().astype(np.uint8)
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(np.eye(3, dtype=int) * 65536).ravel().tolist())
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + lab.tobytes() + ramp * 3
    return profile(b"CMYK", b"Lab ", {b"A2B0": table, b"B2A0": table}, device=b"prtr")


def profile(colors: bytes, connection: bytes, tags: dict[bytes, bytes], device: bytes = b"mntr") -> bytes:
    """An ICC profile of version 2."""
    text = b"of a test\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    tags = {b"desc": description, b"cprt": b"text" + bytes(4) + text, b"wtpt": xyz_tag(xyz(D50))} | tags
    body, table = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"test", 0x02400000, device, colors, connection)
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += struct.pack(">3i", *(round(value * 65536) for value in xyz(D50)))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def xyz_tag(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values.tolist()))


def curve_tag(exponent: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256))
