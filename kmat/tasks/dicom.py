"""DICOM, through pydicom: pixels as a viewer shows them, and the few tags that a task needs.

Reasons why a file cannot be read are words of ours: pydicom's own may quote what a tag says of a patient.
"""

import io
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kmat.tasks.base import MAX_PIXELS, MAX_SLICES, UnreadableImageError
from kmat.tasks.optional import need, reading
from kmat.tasks.window import Values, Window, ends, grey, usual_ends

EXTRA = "dicom"
NO_IMAGE = "unreadable: DICOM without an image"

_TAGS = ["Rows", "NumberOfFrames", "PatientID", "Modality", "SOPInstanceUID"]
_PLUGINS = ("pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pyjpegls", "python-gdcm")
_COLOURS = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})


class Header(NamedTuple):
    """What a task needs of a file before its pixels.

    Attributes
    ----------
    frames : int
    patient : str
        The patient's identifier, to be shown to nobody.
    modality : str
        Such as ``CT``; empty if the file does not say.
    uid : str
        Of the image, unique in the world.
    """

    frames: int
    patient: str
    modality: str
    uid: str


def read_header(path: Path) -> Header:
    """Read a file up to its pixels.

    Raises
    ------
    UnreadableImageError
        If it is no DICOM image, or pydicom is missing.
    """
    with reading("DICOM"):
        dataset = need("pydicom", EXTRA).dcmread(path, stop_before_pixels=True, force=True, specific_tags=_TAGS)
        if "Rows" not in dataset:
            raise UnreadableImageError(NO_IMAGE)
        frames = _frames(dataset)
        patient, modality, uid = (str(dataset.get(tag) or "").strip() for tag in _TAGS[2:])
        return Header(frames, patient, modality if modality.isascii() and modality.isalpha() else "", uid)


def versions() -> str:
    """Name pydicom and its plug-ins, on which it depends what can be read and what comes out.

    Raises
    ------
    UnreadableImageError
        If pydicom is missing.
    """
    found = [f"pydicom {need('pydicom', EXTRA).__version__}"]
    for name in _PLUGINS:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


def decode_dicom(content: bytes, number: int | None = None, window: Window | None = None) -> Image.Image:
    """Decode one frame to RGB.

    Grey values are those after the modality's slope and intercept (Hounsfield units of a CT). They are shown through
    ``window``, else the file's own VOI window or table, else as they are if they have at most eight bits, else between
    :data:`kmat.tasks.window.PERCENTILES`.

    Parameters
    ----------
    content : bytes
    number : int, optional
        Of the frame, counted from 1; needed where there are several.
    window : tuple of float, optional

    Raises
    ------
    UnreadableImageError
        If the file is damaged, or pydicom or a plug-in of it is missing.
    """
    with reading("DICOM"):
        dataset = need("pydicom", EXTRA).dcmread(io.BytesIO(content), force=True)
        if "Rows" not in dataset or not {"PixelData", "FloatPixelData", "DoubleFloatPixelData"} & set(dataset.dir()):
            raise UnreadableImageError(NO_IMAGE)
        frames = _frames(dataset)
        frame = 1 if number is None and frames == 1 else number
        if frame is None or not 1 <= frame <= frames:
            raise UnreadableImageError(f"unreadable: there is no slice {number}, they are 1 to {frames}")
        if dataset.Rows * dataset.Columns > MAX_PIXELS:
            raise UnreadableImageError(f"unreadable: more than {MAX_PIXELS // 1_000_000} million pixels")
        pixels = _pixels(dataset, frame)
        return Image.fromarray(_shown(dataset, pixels, frame, window)).convert("RGB")


def _frames(dataset: Any) -> int:
    frames = int(dataset.get("NumberOfFrames") or 1)
    if not 1 <= frames <= MAX_SLICES:
        raise UnreadableImageError(f"unreadable: {frames} frames, expected 1 to {MAX_SLICES}")
    return frames


def _pixels(dataset: Any, frame: int) -> Values:
    """Decode what is stored; YCbCr becomes RGB."""
    pydicom, pixels = need("pydicom", EXTRA), need("pydicom.pixels", EXTRA)
    if "TransferSyntaxUID" not in dataset.file_meta:  # without a preamble: as the tags were written, so are the pixels
        implicit, little = dataset.original_encoding
        names = {(True, True): "ImplicitVRLittleEndian", (False, True): "ExplicitVRLittleEndian"}
        dataset.file_meta.TransferSyntaxUID = getattr(pydicom.uid, names.get((implicit, little), "ExplicitVRBigEndian"))
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = pixels.get_decoder(syntax)
    except NotImplementedError:
        raise UnreadableImageError("unreadable: pixels in a transfer syntax that pydicom does not know") from None
    plugins = " or ".join(decoder.missing_dependencies)
    if not decoder.is_available:
        raise UnreadableImageError(f"unreadable: {syntax.name} needs a plug-in of pydicom: {plugins}")
    try:
        array: Values = pixels.pixel_array(dataset, index=frame - 1)
    except RuntimeError:  # of all plug-ins at hand: Pillow decodes no JPEG of 12 bits
        may = f"; another plug-in of pydicom may do it: {plugins}" if plugins else ""
        raise UnreadableImageError(f"unreadable: {syntax.name} that cannot be decoded{may}") from None
    return array


def _shown(dataset: Any, pixels: Values, frame: int, window: Window | None) -> NDArray[np.uint8]:
    meaning = dataset.get("PhotometricInterpretation")
    if meaning == "PALETTE COLOR":
        pixels = need("pydicom.pixels", EXTRA).apply_color_lut(pixels, dataset)
        return _upper_bits(pixels, 8 * pixels.dtype.itemsize)
    if pixels.ndim == 3 and meaning in _COLOURS:
        return _upper_bits(pixels, dataset.BitsStored)
    if pixels.ndim != 2 or meaning not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnreadableImageError("unreadable: an unknown colour space")
    shown = _windowed(dataset, _measured(dataset, pixels, frame), frame, window)
    return 255 - shown if meaning == "MONOCHROME1" else shown


def _upper_bits(pixels: Values, bits: int) -> NDArray[np.uint8]:
    return (pixels.astype(np.int64) >> max(bits - 8, 0)).astype(np.uint8)


def _measured(dataset: Any, pixels: Values, frame: int) -> Values:
    """Apply the modality's table, or its slope and intercept."""
    if dataset.get("ModalityLUTSequence"):
        measured: Values = need("pydicom.pixels", EXTRA).apply_modality_lut(pixels, dataset)
        return measured
    slope, intercept = (
        _number(_tag(dataset, frame, "PixelValueTransformationSequence", name))
        for name in ("RescaleSlope", "RescaleIntercept")
    )
    return pixels if slope is intercept is None else pixels * (slope or 1.0) + (intercept or 0.0)


def _windowed(dataset: Any, values: Values, frame: int, window: Window | None) -> NDArray[np.uint8]:
    if window is not None:
        return grey(values, *ends(window))
    level, width, function = (
        _tag(dataset, frame, "FrameVOILUTSequence", name) for name in ("WindowCenter", "WindowWidth", "VOILUTFunction")
    )
    centre, span = _number(level), _number(width)
    if centre is not None and span is not None and span > 0:
        if function == "SIGMOID":
            return np.rint(127.5 * (1 + np.tanh(2 * (values - centre) / span))).astype(np.uint8)
        if function == "LINEAR_EXACT":
            return grey(values, *ends((centre, span)))
        return grey(values, *ends((centre - 0.5, max(span - 1, 0))))  # PS3.3, C.11.2.1.2
    if dataset.get("VOILUTSequence"):
        table = need("pydicom.pixels", EXTRA).apply_voi(np.rint(values).astype(np.int64), dataset)
        return grey(table, 0, 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1)
    if values.dtype.kind == "u" and dataset.BitsStored <= 8:
        return grey(values, 0, 2**dataset.BitsStored - 1)
    return grey(values, *usual_ends(values))


def _tag(dataset: Any, frame: int, group: str, name: str) -> Any:
    """What a frame says in its functional groups, what these say of all frames, or what the file says."""
    own = (dataset.get("PerFrameFunctionalGroupsSequence") or [])[frame - 1 : frame]
    for place in (*own, *(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]):
        for item in place.get(group) or ():
            if item.get(name) is not None:
                return item.get(name)
    return dataset.get(name)


def _number(value: Any) -> float | None:
    """Return the first of the numbers that a tag may hold; None if there is none, or it is none."""
    first = value if value is None or isinstance(value, str | float | int) else next(iter(value), None)
    number = None if first in (None, "") else float(first)
    return number if number is not None and np.isfinite(number) else None
