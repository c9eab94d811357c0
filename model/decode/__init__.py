"""Bytes of an image file in, upright 8-bit RGB pixels out, or the true reason why there are none.

In this room: one decoder and one whitelist of formats, for the pipeline, for training and for `Predictor`, a module for
each family of formats. What may come in: numpy, and the libraries that know a format best (libjpeg-turbo by simplejpeg,
libpng by imagecodecs, tifffile, Pillow), each imported where it is needed. What must not: torch, Ray, Arrow, storage;
anything that starts a program or reads a file of its own.

What is decided here, and tested:

- Pixels are given as they are stored. ICC profiles and gAMA are not applied, as in the data that models are trained on
  (OpenCV and torchvision do the same); a browser may show other colours.
- Orientation is what a format's own standard says: EXIF in JPEG, PNG (eXIf) and WebP, the tag in TIFF, the boxes in
  AVIF and HEIC. Orientation that is only in XMP is not honoured: browsers and OpenCV show such a file unturned.
- Of an animation the first frame is taken: of an animated PNG too, whose default image may be another picture.
- What is not pixels (a profile, text, EXIF) may be broken: it costs its own meaning, never the picture.
- What lacks pixels is unreadable: libjpeg's warnings count. A JPEG that only lacks its end marker is whole.
- Transparent pixels lie on white. Alpha that is 0 everywhere is no alpha in BMP, ICO and TGA, whose writers leave it so.
"""

from masklake.model.decode.frame import DecodeOptions, Fault, UndecodableError
from masklake.model.decode.reader import decode, decoded_size

__all__ = ["DecodeOptions", "Fault", "UndecodableError", "decode", "decoded_size"]
