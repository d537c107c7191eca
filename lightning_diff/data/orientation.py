"""Images turned as the camera was held."""

from PIL import Image

TURNS = {  # by the EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image) -> Image.Image:
    """Turned and mirrored as its EXIF (or XMP) orientation says; a damaged note says nothing."""
    if (
        not image.info and image.format != "TIFF"
    ):  # whose notes are among its tags; asking costs as much as a small image
        return image
    try:
        turn = TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # of struct, of the TIFF reader, of the XML parser
        return image
    return image if turn is None else image.transpose(turn)
