"""NIfTI: axial slices of a volume, turned as radiologists see them, and one line for whatever is wrong."""

import sys

import nibabel
import numpy as np
import pytest
from clinic import damaged, nifti, reason

from kmat.tasks.base import UnreadableImageError
from kmat.tasks.files import images_in
from kmat.tasks.images import LooseImages
from kmat.tasks.nifti import count_slices

VOLUME = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4)).astype(np.int16)  # right, front, up


def slices(path, window=None):
    source = LooseImages(window)
    return [np.asarray(source.read(ref))[..., 0].astype(int) for ref in images_in(path, str(path)).refs]


def expected(volume, number, low, high):
    seen = volume[::-1, ::-1, number].T.astype(float)
    return np.rint(np.clip((seen - low) / (high - low), 0, 1) * 255)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
def test_slices_from_below_with_the_patients_right_on_the_left(tmp_path, suffix):
    path = nifti(tmp_path / f"a{suffix.lower()}", VOLUME).rename(tmp_path / f"b{suffix}")
    low, high = np.percentile(VOLUME, (0.5, 99.5))
    found = slices(path)
    assert len(found) == 4
    for number, image in enumerate(found):
        assert image.shape == (5, 6)
        np.testing.assert_array_equal(image, expected(VOLUME, number, low, high))
    np.testing.assert_array_equal(slices(path, (40, 400))[2], expected(VOLUME, 2, -160, 240))


def test_however_the_volume_is_stored(tmp_path):
    upright = slices(nifti(tmp_path / "a.nii", VOLUME))
    sagittal = np.flip(VOLUME.transpose(1, 2, 0), axis=2)  # front, up, left
    affine = np.array([[0, 0, -1, 5], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)
    turned = slices(nifti(tmp_path / "b.nii.gz", sagittal, affine))
    np.testing.assert_array_equal(turned, upright)
    np.testing.assert_array_equal(slices(nifti(tmp_path / "c.nii", VOLUME[..., None])), upright)


def test_slope_and_intercept_of_the_header(tmp_path):
    image = nibabel.Nifti1Image(VOLUME.astype(np.float64) / 4 + 3, np.eye(4))
    image.header.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii")
    assert image.header["scl_slope"] != 1
    np.testing.assert_allclose(slices(tmp_path / "a.nii", (3, 400))[1], expected(VOLUME, 1, -800, 800), atol=1)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((4, 4, 4, 2), np.int16), "4 x 4 x 4 x 2 voxels, expected one volume of three dimensions"),
        (np.zeros((4, 4), np.int16), "4 x 4 voxels, expected one volume of three dimensions"),
        (np.zeros((4, 4, 4), np.complex64), "a volume of colours or complex numbers"),
        (np.zeros((2, 2, 11_000), np.int8), "too many slices"),
    ],
)
def test_what_is_not_one_volume(tmp_path, values, reason):
    with pytest.raises(UnreadableImageError, match=f"^unreadable: .*{reason}"):
        count_slices(nifti(tmp_path / "a.nii", values))


def test_values_that_are_no_numbers(tmp_path):
    values = VOLUME.astype(np.float32)
    values[0, 0, 0] = np.nan
    with pytest.raises(UnreadableImageError, match="NaN or infinite"):
        slices(nifti(tmp_path / "a.nii", values))


def test_slices_that_are_not_there(tmp_path):
    path = nifti(tmp_path / "a.nii", VOLUME)
    source = LooseImages()
    for number in (0, 5):
        with pytest.raises(UnreadableImageError, match=rf"^unreadable: there is no slice {number}, they are 1 to 4$"):
            source.read(f"{path}#{number}")
    with pytest.raises(UnreadableImageError, match=r"a volume; its slices are .*a\.nii#1 and so on"):
        source.read(str(path))
    assert len({source.content(f"{path}#{number}") for number in range(1, 5)}) == 4


def test_a_volume_that_changed_is_read_again(tmp_path):
    path = nifti(tmp_path / "a.nii", VOLUME)
    source = LooseImages()
    before, content = slices(path)[0], source.content(f"{path}#1")
    nifti(path, -VOLUME[:, :, :3])
    assert (slices(path)[0] != before).any()
    assert source.content(f"{path}#1") != content


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_random_damage_ends_in_a_picture_or_a_line(tmp_path, suffix):
    whole = nifti(tmp_path / f"a{suffix}", VOLUME).read_bytes()
    rng = np.random.default_rng(0)
    reasons = []
    for case in range(100):
        path = tmp_path / f"{case}{suffix}"
        path.write_bytes(damaged(whole, rng))
        reasons.append(reason(slices, path))
    assert sum(map(bool, reasons)) > 20
    assert all(each.startswith("unreadable: ") and len(each.splitlines()) == 1 for each in filter(None, reasons))


def test_without_nibabel(tmp_path, monkeypatch):
    path = nifti(tmp_path / "a.nii", VOLUME)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    for read in (LooseImages().read, LooseImages().content):
        with pytest.raises(UnreadableImageError, match=r"^unreadable: needs nibabel: pip install 'fgwot\[nifti\]'$"):
            read(f"{path}#1")
