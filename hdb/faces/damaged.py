"""Whole pictures beside damaged metadata, which Pillow refuses or reads without their orientation.

Pillow reads comments, previews and camera notes before the pixels. It refuses a JPEG or PNG if one of them is cut off,
says a wrong length or has a wrong checksum; AVIF's decoder refuses damaged EXIF. It reads damaged EXIF up to the first
entry that points outside of it, and loses an orientation that stands behind.
"""

import re
import zlib
from io import BytesIO
from itertools import islice

from PIL import ExifTags
from PIL.JpegImagePlugin import JpegImageFile

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CANDIDATES = 100  # places tried as the begin of a JPEG's picture or of a PNG's chunk: a hostile file has any number
# Size in bytes of a value by its TIFF type: BYTE, SHORT, LONG and their signed kin.
# Cameras write an orientation as SHORT, some tools as another.
INTEGER_SIZES = {1: 1, 3: 2, 4: 4, 6: 1, 8: 2, 9: 4}


def without_metadata(data: bytes) -> bytes:
    """The picture of a JPEG, PNG or AVIF file as a new file, almost without metadata; other files as they are."""
    if data.startswith(b"\xff\xd8"):
        return _bare_jpeg(data)
    if data.startswith(PNG_SIGNATURE):
        return _bare_png(data)
    if data[4:8] == b"ftyp":  # an item of an unknown type is skipped; AVIF turns pictures by boxes of its own
        return re.sub(rb"(infe[\x02\x03].{3}.{4,6}?)Exif", rb"\1skip", data, flags=re.DOTALL)
    return data


def _bare_jpeg(data: bytes) -> bytes:
    """The largest picture that begins with a table or a frame header somewhere in the file, and the EXIF before it.

    Previews are smaller. Of equally large ones the first has all of its tables.
    """
    largest, start = 0, 0
    for match in islice(re.finditer(rb"\xff[\xc0-\xc2\xc4\xdb\xdd]", data), MAX_CANDIDATES):
        try:
            width, height = JpegImageFile(BytesIO(b"\xff\xd8" + data[match.start() : match.start() + 2**20])).size
        except Exception:  # no picture begins here
            continue
        if width * height > largest:
            largest, start = width * height, match.start()
    if not largest:
        return data
    head = b"\xff\xd8"
    exif_start = data.find(b"Exif\0\0", 0, start)
    if exif_start >= 0:
        exif = data[exif_start : min(start, exif_start + 2**15)]
        head += b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    adobe = re.search(rb"\xff\xee\0\x0eAdobe.{7}", data[:start], re.DOTALL)  # says what the channels are
    if adobe:
        head += adobe[0]
    return head + data[start:]


def _bare_png(data: bytes) -> bytes:
    """The chunks that decide about the picture, as far as they have their checksum, and EXIF in any case."""
    chunks = [PNG_SIGNATURE]
    end = num_damaged = 0
    for match in re.finditer(rb"IHDR|PLTE|tRNS|iCCP|eXIf|IDAT|IEND", data):
        start = match.start() - 4
        if start < end:  # within the chunk before
            continue
        stop = match.end() + int.from_bytes(data[start : match.start()], "big")
        checksum = zlib.crc32(data[match.start() : stop]).to_bytes(4, "big")
        is_exif = match[0] == b"eXIf" and data[stop + 8 : stop + 12].isalpha()  # a further chunk follows
        if is_exif or data[stop : stop + 4] == checksum:
            end = stop + 4
            chunks.append(data[start:stop] + checksum)
        else:
            num_damaged += 1
            if num_damaged == MAX_CANDIDATES:
                break
    return b"".join(chunks)


def find_orientation(exif: bytes) -> int | None:
    """The orientation in the first directory of EXIF data; no other entry is read.

    Raises:
        ValueError: there is no directory.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    byte_order = {b"II": "little", b"MM": "big"}.get(tiff[:2])

    def number(start: int, size: int) -> int:
        return int.from_bytes(tiff[start : start + size], byte_order)

    if byte_order is None or not 8 <= number(4, 4) <= len(tiff) - 14:
        raise ValueError("no directory in the EXIF data")
    first = number(4, 4) + 2
    for start in range(first, min(first + 12 * number(first - 2, 2), len(tiff) - 11), 12):
        size = INTEGER_SIZES.get(number(start + 2, 2))
        if number(start, 2) == ExifTags.Base.Orientation and size and number(start + 4, 4) == 1:
            return number(start + 8, size)
    return None
