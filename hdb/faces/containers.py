"""A picture file without its metadata: what decides about the pixels goes to the decoder, the rest does not.

Decoders read comments, profiles, previews and camera notes too, and refuse a whole picture for a damaged byte in one.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from hdb.faces.orientation import ORIENTATION, orientation_in, raw_profile, tiff_orientation

PNG = b"\x89PNG\r\n\x1a\n"
PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # that decoding needs
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"  # version 1.1, no density, no preview
FRAMES = {0xC0 + number for number in range(16)} - {0xC4, 0xC8, 0xCC}  # JPEG's SOFn
# TIFF's tags that decoding needs: kind, size, compression, color, place of strips and tiles, palette, tables
TIFF_TAGS = {254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325}
TIFF_TAGS |= {332, 338, 339, 347, *range(512, 522), *range(529, 533)}
DNG = 50706  # the tag DNGVersion: a raw picture, whose first directory is a preview


class Plain(NamedTuple):
    """A picture file without metadata, and the orientation (1 to 8) that stood in it; None if only a decoder knows."""

    data: bytes
    orientation: int | None = None


class DamagedError(ValueError):
    """The file does not hold the picture's pixels, or not as they were stored; the message goes on after a name."""


def without_metadata(data: bytes) -> Plain:
    """What is neither JPEG, PNG, WebP, TIFF nor AVIF is given back as it is.

    Raises:
        DamagedError: the pixels of a PNG do not have their checksum, or a TIFF holds but a preview of a raw picture.
    """
    if data[:2] == b"\xff\xd8":
        return plain_jpeg(data)
    if data[:8] == PNG:
        return plain_png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return plain_webp(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return plain_tiff(data)
    if data[4:8] == b"ftyp":  # AVIF turns pictures by boxes of its own; an unknown kind of item is passed over
        return Plain(re.sub(rb"(infe[\x02\x03].{3}.{4,6}?)Exif", rb"\1skip", data, flags=re.DOTALL))
    return Plain(data)


class Header(NamedTuple):
    """A JPEG's segments up to the pixels: (marker, its first byte, the byte behind it)."""

    segments: list[tuple[int, int, int]]
    pixels: int  # where the first scan begins
    area: int


def plain_jpeg(data: bytes) -> Plain:
    """Only tables, JFIF's and Adobe's mark, and the scans: of a file with several pictures the first."""
    header = jpeg_header(data, 2)
    if header is None:  # the length of some segment is damaged: the largest picture whose segments are whole
        starts = [match.start() for match in re.finditer(rb"\xff[\xc0-\xc2\xc4\xdb\xdd\xe0\xee]", data)]
        headers = [found for start in starts if (found := jpeg_header(data, start))]
        if not headers:
            return Plain(data)
        header = max(headers, key=lambda found: found.area)  # of the same, the earliest, with all of its tables
    parts, dropped, end = [b"\xff\xd8"], [], 2
    for marker, start, stop in header.segments:
        dropped.append(data[end:start])
        segment, end = data[start:stop], stop
        if marker == 0xE0 and segment[4:8] == b"JFIF":
            parts.append(JFIF)
        elif is_table(marker, segment[4:]) or (marker == 0xEE and segment[4:9] == b"Adobe" and len(segment) >= 16):
            parts.append(segment)
        else:
            dropped.append(segment)
            parts.append(swallowed_tables(segment))
    return Plain(b"".join([*parts, data[header.pixels :]]), orientation_in(b"".join(dropped)))


def jpeg_header(data: bytes, at: int) -> Header | None:
    """The segments from a byte on; None where they break off or are of no picture."""
    segments, area = [], 0
    while data[at : at + 1] == b"\xff":
        start = at
        while data[at : at + 1] == b"\xff":  # fill bytes
            at += 1
        marker, stop = data[at] if at < len(data) else 0, at + 1 + int.from_bytes(data[at + 1 : at + 3], "big")
        if marker == 0xDA:
            return Header(segments, start, area) if area else None
        if marker < 0xC0 or 0xD0 <= marker <= 0xD9 or stop < at + 3 or stop > len(data):
            return None
        if marker in FRAMES and is_table(marker, data[at + 3 : stop]):
            area = max(1, int.from_bytes(data[at + 4 : at + 6], "big") * int.from_bytes(data[at + 6 : at + 8], "big"))
        segments.append((marker, at - 1, stop))
        at = stop
    return None


def is_table(marker: int, content: bytes) -> bool:
    """Whether a JPEG's segment is one that decoding needs, and no note that a damaged marker makes look like one."""
    if marker in FRAMES:
        return len(content) > 5 and 1 <= content[5] <= 4 and len(content) == 6 + 3 * content[5]
    if marker in (0xDB, 0xC4):  # DQT, DHT: any number of tables, which end with the segment
        at = 0
        while at < len(content):
            kind, number = content[at] >> 4, content[at] & 15
            if kind > 1 or number > 3:
                return False
            at += 1 + 64 * (kind + 1) if marker == 0xDB else 17 + sum(content[at + 1 : at + 17])
        return at == len(content) > 0
    if marker == 0xCC:  # DAC
        return 0 < len(content) <= 16 and len(content) % 2 == 0
    return (marker, len(content)) in ((0xDD, 2), (0xDC, 2))  # DRI, DNL


def swallowed_tables(segment: bytes) -> bytes:
    """Tables up to the very end of a segment: its damaged length reaches over them."""
    for match in re.finditer(rb"\xff[\xc0-\xc2\xc4\xdb\xdd]", segment[4:]):
        start = at = match.start() + 4
        while segment[at : at + 1] == b"\xff" and at + 4 <= len(segment):
            stop = at + 2 + int.from_bytes(segment[at + 2 : at + 4], "big")
            if not is_table(segment[at + 1], segment[at + 4 : stop]):
                break
            at = stop
        if at == len(segment):
            return segment[start:]
    return b""


def plain_png(data: bytes) -> Plain:
    """Header, palette, transparency and pixels; of an animation the picture that others show."""
    parts, dropped = [PNG], []
    for kind, content, whole in png_chunks(data):
        if kind in PNG_CHUNKS:
            if not whole:
                given = f"is truncated or damaged (its part {kind.decode()} does not have its checksum)"
                raise DamagedError(f"{given}; expected a whole picture")
            parts.append(png_chunk(kind, content))
        elif kind == b"eXIf":
            dropped.append(content if content.startswith(b"Exif\0\0") else b"Exif\0\0" + content)
        elif kind in (b"tEXt", b"zTXt"):
            dropped.append(raw_profile(content))
        elif kind == b"iTXt":
            dropped.append(content)
    return Plain(b"".join(parts), orientation_in(b"".join(dropped)))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(kind, content, whether the checksum is right); after one of a damaged length, on from a next one for pixels."""
    at = 8
    while at + 12 <= len(data):
        stop = at + 8 + int.from_bytes(data[at : at + 4], "big")
        kind, whole = data[at + 4 : at + 8], is_whole(data, at)
        if whole or kind in PNG_CHUNKS or data[stop + 8 : stop + 12].isalpha():
            yield kind, data[at + 8 : stop], whole
            at = stop + 4
        else:
            further = re.finditer(rb"(?=....(?:PLTE|tRNS|IDAT|IEND))", data[at + 1 :], re.DOTALL)
            starts = (at + 1 + match.start() for match in further)
            at = next((start for start in starts if is_whole(data, start)), len(data))


def is_whole(data: bytes, at: int) -> bool:
    """Whether a PNG's chunk has its checksum."""
    stop = at + 8 + int.from_bytes(data[at : at + 4], "big")
    return zlib.crc32(data[at + 4 : stop]) == int.from_bytes(data[stop : stop + 4], "big") and stop < len(data)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def plain_webp(data: bytes) -> Plain:
    """The canvas, its frames and pixels."""
    parts, dropped, at = [], [], 12
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        content = data[at + 8 : at + 8 + size]
        if kind == b"VP8X":
            content = bytes([content[0] & ~0x2C]) + content[1:] if content else content  # no ICCP, EXIF, XMP follows
        if kind in (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            parts.append(kind + struct.pack("<I", size) + content + b"\0" * (size % 2))
        elif kind == b"EXIF":
            dropped.append(content if content.startswith(b"Exif\0\0") else b"Exif\0\0" + content)
        else:
            dropped.append(content)
        at += 8 + size + size % 2
    if not any(part[:4] in (b"VP8 ", b"VP8L", b"ANMF") for part in parts):
        return Plain(data, orientation_in(data))
    body = b"WEBP" + b"".join(parts)
    return Plain(b"RIFF" + struct.pack("<I", len(body)) + body, orientation_in(b"".join(dropped)))


def plain_tiff(data: bytes) -> Plain:
    """A directory of the tags that decoding needs, written behind the file; it has no further one."""
    order = "little" if data[:2] == b"II" else "big"
    big = 43 in (data[2], data[3])
    count_size, entry_size, offset_size, offset_at = (8, 20, 8, 8) if big else (2, 12, 4, 4)
    start = int.from_bytes(data[offset_at : offset_at + offset_size], order)
    num = int.from_bytes(data[start : start + count_size], order)
    first = start + count_size
    entries = {
        int.from_bytes(data[at : at + 2], order): data[at : at + entry_size]
        for at in range(first, min(first + num * entry_size, len(data) - entry_size + 1), entry_size)
    }
    kind = entries.get(254, b"")[entry_size - offset_size :][:4]
    if DNG in entries or int.from_bytes(kind, order) == 1:
        raise DamagedError("begins with a small preview, as raw pictures do; save the picture as JPEG or PNG first")
    kept = [entry for tag, entry in sorted(entries.items()) if tag in TIFF_TAGS]
    behind = data + b"\0" * (-len(data) % 8)
    directory = len(kept).to_bytes(count_size, order) + b"".join(kept) + b"\0" * offset_size
    header = data[:offset_at] + len(behind).to_bytes(offset_size, order)
    # An orientation is read as EXIF's is: from a small TIFF with nothing but its entry.
    entry = entries.get(ORIENTATION, b"")
    if big:
        entry = entry[:4] + (entry[4:8] if order == "little" else entry[8:12]) + entry[12:16]
    small = data[:2] + b"\0\0" + (8).to_bytes(4, order) + (1).to_bytes(2, order) + entry
    return Plain(header + behind[len(header) :] + directory, tiff_orientation(small) or 1)
