"""DICOM: pixels as a viewer shows them, nothing of the patient, and one line for whatever is wrong."""

import logging
import sys
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from clinic import NAME, damaged, dicom, reason
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from kmat.tasks.base import UnreadableImageError
from kmat.tasks.dicom import Header, read_header
from kmat.tasks.files import kind
from kmat.tasks.images import LooseImages

RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8) * 64  # 12 bits


def shown(path, number=None, window=None):
    image = LooseImages(window).read(str(path) if number is None else f"{path}#{number}")
    assert image.mode == "RGB"
    return np.asarray(image)


def grey(*arguments, **options):
    pixels = shown(*arguments, **options)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0].astype(int)


def linear(values, low, high):
    return np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255).astype(int)


def test_eight_bits_are_shown_as_they_are(tmp_path):
    pixels = np.arange(60, 124, dtype=np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(grey(dicom(tmp_path / "a.dcm", pixels)), pixels)
    np.testing.assert_array_equal(grey(dicom(tmp_path / "b.dcm", pixels // 16, bits=4)), pixels // 16 * 17)


def test_without_a_window_percentiles_are_shown(tmp_path):
    pixels = np.tile(RAMP, (8, 8))
    pixels[0, 0] = 4095
    pixels[5, 5] = 60000
    path = dicom(tmp_path / "a.dcm", pixels)
    np.testing.assert_array_equal(grey(path), linear(pixels, *np.percentile(pixels, (0.5, 99.5))))
    assert np.median(grey(path)) > 100, "one hot pixel dims nothing"


def test_windows_are_those_of_the_standard(tmp_path):
    """PS3.3, C.11.2.1.2: of values after slope and intercept."""
    hounsfield = RAMP.astype(int) - 1024
    rescale = {"RescaleSlope": 1, "RescaleIntercept": -1024}
    window = {"WindowCenter": [40, 600], "WindowWidth": [400, 1500]}
    path = dicom(tmp_path / "a.dcm", RAMP, bits=12, **rescale, **window)
    expected = np.clip(((hounsfield - 39.5) / 399 + 0.5) * 255, 0, 255)
    np.testing.assert_allclose(grey(path), expected, atol=0.51)
    exact = dicom(tmp_path / "b.dcm", RAMP, bits=12, VOILUTFunction="LINEAR_EXACT", **rescale, **window)
    np.testing.assert_array_equal(grey(exact), linear(hounsfield, -160, 240))
    sigmoid = dicom(tmp_path / "c.dcm", RAMP, bits=12, VOILUTFunction="SIGMOID", **rescale, **window)
    np.testing.assert_allclose(grey(sigmoid), 255 / (1 + np.exp(-4 * (hounsfield - 40) / 400)), atol=0.51)
    np.testing.assert_array_equal(grey(path, window=(0, 1000)), linear(hounsfield, -500, 500))
    one = dicom(tmp_path / "d.dcm", RAMP, bits=12, WindowCenter=1024, WindowWidth=1)
    np.testing.assert_array_equal(grey(one), 255 * (RAMP > 1023.5))


@pytest.mark.parametrize("width", [0, -5, ""])
def test_a_window_that_is_none_is_not_used(tmp_path, width):
    path = dicom(tmp_path / "a.dcm", RAMP, bits=12, WindowCenter=40, WindowWidth=width)
    np.testing.assert_array_equal(grey(path), linear(RAMP, *np.percentile(RAMP, (0.5, 99.5))))


def test_signed_values(tmp_path):
    values = RAMP.astype(np.int16) - 2000
    path = dicom(tmp_path / "a.dcm", values, WindowCenter=0, WindowWidth=1001)
    np.testing.assert_allclose(grey(path), np.clip((values + 0.5) / 1000 + 0.5, 0, 1) * 255, atol=0.51)


def test_monochrome1_is_inverted(tmp_path):
    plain = grey(dicom(tmp_path / "a.dcm", RAMP, bits=12))
    turned = grey(dicom(tmp_path / "b.dcm", RAMP, bits=12, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(turned, 255 - plain)


def test_a_table_stands_for_a_window(tmp_path):
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 12]
    table.add_new(0x00283006, "US", [4095 - index for index in range(4096)])
    path = dicom(tmp_path / "a.dcm", RAMP, bits=12, VOILUTSequence=Sequence([table]))
    np.testing.assert_array_equal(grey(path), linear(4095 - RAMP.astype(int), 0, 4095))


def test_colours(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(shown(dicom(tmp_path / "rgb.dcm", colours)), colours)
    grey_ycc = np.full((8, 8, 3), 128, np.uint8)
    grey_ycc[..., 0] = np.arange(64).reshape(8, 8)
    ycc = grey(dicom(tmp_path / "ycc.dcm", grey_ycc, PhotometricInterpretation="YBR_FULL"))
    np.testing.assert_allclose(ycc, grey_ycc[..., 0], atol=1)
    palette = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in ("Red", "Green", "Blue")}
    entries = np.arange(256, dtype=np.uint16) << 8
    for name, ramp in (("Red", entries), ("Green", entries[::-1]), ("Blue", entries * 0)):
        palette[f"{name}PaletteColorLookupTableData"] = ramp.tobytes()
    indices = np.arange(64, dtype=np.uint8).reshape(8, 8)
    path = dicom(tmp_path / "palette.dcm", indices, PhotometricInterpretation="PALETTE COLOR", **palette)
    np.testing.assert_array_equal(shown(path), np.stack([indices, 255 - indices, 0 * indices], axis=-1))


def test_frames_are_slices_with_windows_of_their_own(tmp_path):
    frames = np.stack([RAMP, RAMP[::-1], RAMP.T])
    plain = dicom(tmp_path / "plain.dcm", frames, bits=12, NumberOfFrames=3)
    for index in range(3):
        np.testing.assert_array_equal(grey(plain, index + 1), linear(frames[index], *np.percentile(RAMP, (0.5, 99.5))))
    groups = []
    for centre in (1000, 2000, 3000):
        voi, value, group = Dataset(), Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction = centre, 500, "LINEAR_EXACT"
        value.RescaleSlope, value.RescaleIntercept = 2, 10
        group.FrameVOILUTSequence, group.PixelValueTransformationSequence = Sequence([voi]), Sequence([value])
        groups.append(group)
    shared = Dataset()
    shared.PixelValueTransformationSequence = groups[0].PixelValueTransformationSequence
    del groups[2].PixelValueTransformationSequence
    enhanced = dicom(
        *(tmp_path / "enhanced.dcm", frames),
        bits=12,
        NumberOfFrames=3,
        PerFrameFunctionalGroupsSequence=Sequence(groups),
        SharedFunctionalGroupsSequence=Sequence([shared]),
    )
    for index, centre in enumerate((1000, 2000, 3000)):
        measured = frames[index].astype(int) * 2 + 10
        np.testing.assert_array_equal(grey(enhanced, index + 1), linear(measured, centre - 250, centre + 250))
    for number in (0, 4, None):
        with pytest.raises(UnreadableImageError, match=rf"^unreadable: there is no slice {number}, they are 1 to 3$"):
            shown(plain, number)


def test_compressed_pixels(tmp_path):
    path = dicom(tmp_path / "a.dcm", RAMP, bits=12)
    dataset = dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(grey(tmp_path / "rle.dcm"), grey(path))
    colours = np.random.default_rng(0).integers(0, 256, (2, 2, 3)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
    jpeg = BytesIO()
    Image.fromarray(colours).save(jpeg, "JPEG", quality=95, subsampling=0)
    pixels = {"PixelData": encapsulate([jpeg.getvalue()]), "PhotometricInterpretation": "YBR_FULL_422"}
    path = dicom(tmp_path / "jpeg.dcm", colours, syntax=JPEGBaseline8Bit, **pixels)
    np.testing.assert_allclose(shown(path).astype(int), colours, atol=12)


def test_compressed_pixels_that_need_a_plug_in(tmp_path):
    dataset = dcmread(dicom(tmp_path / "a.dcm", RAMP, bits=12))
    dataset.compress(RLELossless)
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.save_as(tmp_path / "jpegls.dcm")
    with pytest.raises(UnreadableImageError, match=r"^unreadable: JPEG-LS .* needs a plug-in of pydicom: .*pylibjpeg"):
        shown(tmp_path / "jpegls.dcm")
    dataset.file_meta.TransferSyntaxUID = "1.2.3.4"
    dataset.save_as(tmp_path / "own.dcm", implicit_vr=False, little_endian=True)
    with pytest.raises(UnreadableImageError, match="transfer syntax that pydicom does not know"):
        shown(tmp_path / "own.dcm")


def test_without_preamble_and_suffix(tmp_path):
    path = dicom(tmp_path / "a.dcm", RAMP, bits=12)
    expected = grey(path)
    np.testing.assert_array_equal(grey(path.rename(tmp_path / "IM0001")), expected)
    path = (tmp_path / "IM0001").rename(tmp_path / "1.2.840.10008.7")
    np.testing.assert_array_equal(grey(path), expected)
    dataset = dcmread(path)
    del dataset.file_meta
    dataset.preamble = None
    for name, implicit in (("implicit.dcm", True), ("explicit.dcm", False)):
        dataset.save_as(tmp_path / name, implicit_vr=implicit, little_endian=True)
        assert (tmp_path / name).read_bytes()[128:132] != b"DICM"
        np.testing.assert_array_equal(grey(tmp_path / name), expected)


def test_what_is_no_image(tmp_path):
    (tmp_path / "text.dcm").write_text("not DICOM " * 30)
    (tmp_path / "empty.dcm").write_bytes(b"")
    path = dicom(tmp_path / "report.dcm", RAMP)
    dataset = dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)
    for name in ("text.dcm", "empty.dcm", "report.dcm"):
        with pytest.raises(UnreadableImageError, match=r"^unreadable: (DICOM without an image|damaged DICOM.*)$"):
            shown(tmp_path / name)
    with pytest.raises(UnreadableImageError, match="No such file"):
        shown(tmp_path / "absent.dcm")


@pytest.mark.parametrize("change", [-2, -64, -128])
def test_too_few_pixels(tmp_path, change):
    path = dicom(tmp_path / "a.dcm", RAMP, PixelData=RAMP.tobytes()[:change])
    with pytest.raises(UnreadableImageError, match=r"^unreadable: damaged DICOM"):
        shown(path)


def test_too_many_pixels_are_no_matter_and_nothing_is_said(tmp_path, caplog):
    path = dicom(tmp_path / "a.dcm", RAMP, bits=12, PixelData=RAMP.tobytes() + b"\0" * 64)
    with warnings.catch_warnings(record=True) as said, caplog.at_level(logging.DEBUG):
        shown(path)
    assert not said
    assert not caplog.records
    assert not logging.getLogger("pydicom").disabled


@pytest.mark.parametrize("tags", [{"Rows": 60000, "Columns": 60000}, {"NumberOfFrames": 10**8}])
def test_headers_that_promise_too_much(tmp_path, tags):
    path = dicom(tmp_path / "a.dcm", np.zeros((8, 8), np.uint8), **{"NumberOfFrames": 1, **tags})
    with pytest.raises(UnreadableImageError, match=r"^unreadable: (more than 100 million pixels|100000000 frames)"):
        shown(path)


def test_headers(tmp_path):
    path = dicom(tmp_path / "a.dcm", np.stack([RAMP] * 3), NumberOfFrames=3, patient=" 17 ", modality="DX")
    assert read_header(path) == Header(3, "17", "DX", dcmread(path).SOPInstanceUID)


def test_random_damage_ends_in_a_picture_or_a_line_without_the_patient(tmp_path):
    whole = dicom(tmp_path / "a.dcm", RAMP, bits=12, WindowCenter=40, WindowWidth=400).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "b.dcm"
    reasons = []
    for _ in range(200):
        path.write_bytes(damaged(whole, rng))
        reasons += [reason(shown, path), reason(read_header, path)]
    assert 20 < sum(map(bool, reasons)) < 380
    for each in filter(None, reasons):
        assert each.startswith("unreadable: ")
        assert len(each.splitlines()) == 1
        assert not any(part in each for part in NAME.split("^"))


SHIPPED = sorted(path for path in (Path(pydicom.__file__).parent / "data").rglob("*") if kind(path) == "dicom")


def test_files_of_real_machines():
    """Those that pydicom brings along: read without a word, or refused with a reason of ours."""
    refused = {path.name: why for path in SHIPPED if (why := reason(lambda path: shown(path, first(path)), path))}
    assert len(SHIPPED) - len(refused) >= 80
    for why in refused.values():
        assert why.startswith(("unreadable: DICOM without an image", "unreadable: JPEG", "unreadable: damaged DICOM ("))
    assert "JPEG Extended (Process 2 and 4) that cannot be decoded; another plug-in" in refused["JPEG-lossy.dcm"]


def first(path):
    return 1 if read_header(path).frames > 1 else None


@pytest.mark.parametrize("name", ["693_J2KI.dcm", "examples_overlay.dcm"])
def test_windows_are_pydicoms(name):
    path = next(path for path in SHIPPED if path.name == name)
    dataset = dcmread(path)
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(float)
    np.testing.assert_allclose(grey(path), 255 * (values - values.min()) / np.ptp(values), atol=0.51)


def test_without_pydicom(tmp_path, monkeypatch):
    path = dicom(tmp_path / "a.dcm", RAMP)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    for read in (LooseImages().read, LooseImages().content, read_header):
        with pytest.raises(UnreadableImageError, match=r"^unreadable: needs pydicom: pip install 'fgwot\[dicom\]'$"):
            read(str(path))
