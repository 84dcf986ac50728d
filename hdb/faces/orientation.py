"""Which way up a picture is, read from its metadata with care: whatever else stands there, nothing is raised."""

import re
import zlib

ORIENTATION = 0x0112  # the tag of TIFF and EXIF
# Bytes of a value by its TIFF type: BYTE, SHORT, LONG and their signed kin. Cameras write SHORT, some tools the others.
WIDTHS = {1: 1, 3: 2, 4: 4, 6: 1, 8: 2, 9: 4}
XMP = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])")


def orientation_in(metadata: bytes) -> int:
    """1 to 8, as EXIF counts, of metadata with an EXIF block or XMP somewhere in it; 1 where there is none.

    EXIF goes before XMP, as the viewers of phones have it.
    """
    start = metadata.find(b"Exif\0\0")
    found = tiff_orientation(metadata[start + 6 :]) if start >= 0 else None
    if found is None and (match := XMP.search(metadata)):
        found = int(match[1])
    return found or 1


def tiff_orientation(tiff: bytes) -> int | None:
    """The orientation in the first directory of a TIFF structure; no other entry is looked at."""
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None:
        return None

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)  # beyond the end: 0

    start = number(4, 4)
    for entry in range(start + 2, min(start + 2 + 12 * number(start, 2), len(tiff) - 11), 12):
        width = WIDTHS.get(number(entry + 2, 2))
        if number(entry, 2) == ORIENTATION and width and number(entry + 4, 4) == 1:
            value = number(entry + 8, width)
            return value if 1 <= value <= 8 else None
    return None


def raw_profile(text: bytes) -> bytes:
    """EXIF that ImageMagick wrote into a PNG's tEXt or zTXt chunk, as hexadecimal digits; b"" where there is none."""
    keyword, _, content = text.partition(b"\0")
    if keyword not in (b"Raw profile type exif", b"Raw profile type APP1"):
        return b""
    if content[:1] == b"\0":
        try:
            content = zlib.decompressobj().decompress(content[1:], 1 << 20)
        except zlib.error:
            return b""
    digits = re.sub(rb"[^0-9a-fA-F]", b"", b"".join(content.split(b"\n")[3:]))
    return bytes.fromhex(digits[: len(digits) // 2 * 2].decode())
