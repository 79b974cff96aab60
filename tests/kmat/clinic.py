"""DICOM files and NIfTI volumes as scanners write them, and as they should not."""

import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from kmat.tasks.base import UnreadableImageError

NAME = "Doe^Jane"


def dicom(path, pixels, *, bits=None, patient="p1", modality="CT", syntax=ExplicitVRLittleEndian, **tags):
    """Write pixels (rows, columns), (rows, columns, 3) or, with NumberOfFrames, (frames, rows, columns)."""
    pixels = np.ascontiguousarray(pixels)
    allocated = 8 * pixels.dtype.itemsize
    colour = pixels.ndim - ("NumberOfFrames" in tags) == 3
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.PatientName = NAME
    dataset.PatientID = patient
    dataset.Modality = modality
    dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = allocated
    dataset.BitsStored = bits or allocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.add_new(0x7FE00010, "OB" if allocated == 8 else "OW", pixels.tobytes())
    for name, value in tags.items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def damaged(content, rng):
    """Change a few bytes behind a DICOM preamble's place, and sometimes cut the file."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 13)):
        content[rng.integers(132, len(content))] = rng.integers(256)
    return content[: rng.integers(len(content)) if rng.random() < 0.5 else None]


def reason(read, path):
    """Say why a file cannot be read; empty if it can."""
    try:
        read(path)
    except UnreadableImageError as error:
        return str(error)
    return ""


def nifti(path, values, affine=None):
    """Write a volume; its axes lead to the right, to the front and up by default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path
