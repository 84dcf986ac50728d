"""Picture formats: the suffixes and first bytes of picture files, and the names of the formats that are not read."""

import re

READABLE = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".gif", ".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c", ".ppm", ".pgm", ".pbm", ".pnm"),
)
# Pictures that are not read. They are listed all the same, so that each is refused by name and none is overlooked.
HEIC = (".heic", ".heif", ".heics", ".heifs", ".hif")
RAW = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef"),
    *(".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
OTHER = (".jxl", ".jxr", ".psd", ".psb", ".xcf", ".svg", ".exr", ".hdr", ".avifs")
SUFFIXES = (*READABLE, *HEIC, *RAW, *OTHER)

CAMERA_RAW = "a camera's raw picture"
# What begins like this is not read. Of several that match, the first counts.
# The brands in the `ftyp` box of ISO media files are those of ISO/IEC 23008-12, annex B.
_UNSUPPORTED = [
    (rb".{4}ftyp(?:hei[cfmsx]|hev[cmsx]|mif1|msf1)", "a HEIC picture"),
    (rb".{4}ftypcrx |(?:II\*\0|MM\0\*).{4}CR|FUJIFILMCCD-RAW|FOVb|II(?:RO|RS|U\0)|MMOR", CAMERA_RAW),
    (rb".{4}ftyp", "a video"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (rb"II\xbc", "a JPEG XR picture"),
    (rb"8BPS", "a Photoshop document"),
    (rb"gimp xcf", "a GIMP document"),
    (rb"v/1\x01", "an OpenEXR picture"),
    (rb"#\?R", "a Radiance HDR picture"),
    (rb"\0\0\x01\0", "a Windows icon"),
    (rb"%PDF", "a PDF document"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript document"),
    (rb"\s*<(?:\?xml.{,400}?<)?(?:!--.{,400}?<)?svg", "an SVG drawing"),
    (rb"\s*<(?:!doctype html|html)", "a web page"),
    (rb"PK\x03\x04", "a ZIP archive"),
]


def unsupported_format(data: bytes) -> str | None:
    """The format of a file that is not read, with its article; None for all other files.

    The file's suffix does not count: phones call HEIC pictures .jpg.

    >>> unsupported_format(b"8BPS\\0\\1"), unsupported_format(b"\\xff\\xd8\\xff\\xe0")
    ('a Photoshop document', None)
    """
    head = data[:1024]
    if is_avif(head):
        return None
    for pattern, name in _UNSUPPORTED:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return name
    return None


def is_avif(head: bytes) -> bool:
    """Whether a file is AVIF by its first 64 bytes; its first brand may be `mif1`, which HEIC has too."""
    return head[4:8] == b"ftyp" and (b"avif" in head[:64] or b"avis" in head[:64])


def is_picture_data(head: bytes) -> bool:
    """Whether the first 32 bytes of a file are those of a picture, read or not."""
    if head[4:8] == b"ftyp":
        return re.match(rb"avi[fs]|hei[cfmsx]|hev[cx]|mif1|msf1", head[8:12]) is not None
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[:2] == b"BM":  # two letters prove little: the reserved bytes must be 0 and the header of a known size
        header_size = int.from_bytes(head[14:18], "little")
        return head[6:10] == b"\0\0\0\0" and header_size in (12, 40, 52, 56, 64, 108, 124)
    tiff = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    jpeg_2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
    return head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", *tiff, *jpeg_2000))
