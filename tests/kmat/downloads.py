"""Trees as the six datasets unpack to, with the defects they are known for; small generated images."""

import csv
import json

import numpy as np
import openpyxl
from PIL import Image

RNG = np.random.default_rng(0)


def picture(path, mode="RGB"):
    """Noise of its own in every file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deep = mode == "I;16"
    values = RNG.integers(0, 60000 if deep else 256, (12, 12)).astype(np.uint16 if deep else np.uint8)
    image = Image.fromarray(values)
    (image if deep else image.convert(mode)).save(path)
    return path


def sheet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    return path


MIDAS_CLASSES = (
    "benign-melanocytic nevus",
    "malignant- bcc",
    "malignant- melanoma",
    "malignant- scc",
    "malignant- ak",
    "benign-seborrheic keratosis",
)


def midas(root, table="release_midas.xlsx", images="", patients=6):
    """Every class with so many patients, each photographed at three distances; see the checks for the rest."""
    blank = "_unnamed_var" if table.endswith(".csv") else "Unnamed: 0"
    header = [blank, "midas_record_id", "midas_file_name", "midas_iscontrol", "midas_distance", "midas_path"]
    rows = []

    def add(patient, diagnosis, distance, name=None, file="", control="no"):
        name = name or f"s-prd-{398966000 + len(rows)}.jpg"
        rows.append([len(rows), patient, name, control, distance, diagnosis])
        if file is not None:
            picture(root / images / (file or name))
        return name

    for label, diagnosis in enumerate(MIDAS_CLASSES):
        for index in range(patients):
            for distance in ("dscope", "6in", "1ft"):
                add(100 * label + index, diagnosis, distance)
    add(0, "malignant- melanoma", "dscope")  # a second lesion of patient 0, of another class
    add(0, "malignant- melanoma", "6in")
    add(900, "malignant- sccis", "6in")
    add(901, "malignant- bcc", "n/a - virtual")
    add(902, None, "6in", control="yes")
    add(903, 0, "dscope")
    add(904, "benign-other", "dscope")
    add(905, "malignant- merkel", "dscope")
    add(906, "malignant- bcc", "dscope", "s-prd-1.jpeg", "s-prd-1.jpg")
    add(907, "malignant- bcc", "dscope", "s-prd-2.jpg", "s-prd-2_cropped.jpg")
    add(908, "malignant- bcc", "dscope", "s-prd-3.jpg", "S-PRD-3.JPG")
    add(909, "malignant- bcc", "dscope", "s-prd-502892079.jpg", None)
    twice = add(910, "malignant- scc", "6in", "s-prd-5.jpg")
    add(911, "malignant- ak", "6in", twice, None)
    add(912, "malignant- bcc", "6in", "s-prd-6.jpg", control="yes")
    sheet(root / table, [header, *rows])
    return root


DERM7PT_CLASSES = (
    "basal cell carcinoma",
    "clark nevus",
    "melanoma (less than 0.76 mm)",
    "lentigo",
    "seborrheic keratosis",
)


def derm7pt(root, per_class=6):
    """Cases in turn of each class; a third of each class in each split."""
    header = ["case_num", "diagnosis", "level_of_diagnostic_difficulty", "clinic", "derm", "case_id", "notes"]
    rows, splits = [], {"train": [], "valid": [], "test": []}
    for index in range(per_class):
        for label, diagnosis in enumerate(DERM7PT_CLASSES):
            number = len(rows)
            folder = ("NEL", "Aal", "FAL")[number % 3]
            derm = f"{folder}/{folder}{number:03}.{'JPG' if number % 2 else 'jpg'}"
            clinic = f"{folder}/{folder.title()}{number:03}c.jpg"
            if (index, label) == (0, 0):
                clinic = derm  # "Clinical missing"
            else:
                picture(root / "images" / clinic)
            picture(root / "images" / derm)
            rows.append([number + 1, diagnosis, "low", clinic, derm, "", ""])
            splits[("train", "valid", "test")[index % 3]].append([number])
    rows[1][4] = rows[1][4].lower().replace(".jpg", ".JPG")  # written in another case than on disk
    (root / "images" / rows[2][3]).unlink()
    sheet(root / "meta" / "meta.csv", [header, *rows])
    for name, numbers in splits.items():
        sheet(root / "meta" / f"{name}_indexes.csv", [["indexes"], *numbers])
    return root


ENDINGS = ("png", "jpg", "JPG", "bmp", "tif", "Jpg", "jpeg")


def cc_ccii(root, patients=6, folders=("NCP", "CP", "Normal"), slices=9):
    """Patients of each class, the first with two scans; slices 0, 7, 14, ... unpadded, in mixed formats."""
    for label, folder in enumerate(folders):
        for index in range(patients):
            patient = 1000 * label + index
            for scan in range(2 if index == 0 else 1):
                ending = ENDINGS[(label + index) % len(ENDINGS)]
                for number in range(slices):
                    picture(root / folder / str(patient) / str(10 * patient + scan) / f"{7 * number}.{ending}", "L")
    return root


def chest_xray(root, counts=(("COVID19", 5, 2), ("NORMAL", 8, 3), ("PNEUMONIA", 12, 4))):
    for name, train, test in counts:
        for number in range(train + test):
            split = "train" if number < train else "test"
            picture(root / split / name / f"{name}({number}).jpg", "L" if number % 2 else "RGB")
    return root


DMID_KEYS = "a legend of abnormalities and classes, as in MIAS"


def dmid(root, per_class=8, header=None, table="Metadata.xlsx", images="TIFF Images/TIFF Images"):
    """One image in four is 16-bit, one RGB, one RGBA. Legend rows, blank classes, several rows per image."""
    rows = [list(header)] if header else [[DMID_KEYS if line == 3 else None] for line in range(31)]
    number = 0
    for label, abnormality in (("B", "CIRC"), ("M", "SPIC"), ("N", "NORM")):
        for _ in range(per_class):
            number += 1
            name = f"IMG{number:03}"
            picture(root / images / f"{name}.tif", ("L", "I;16", "RGB", "RGBA")[number % 4])
            place = [None] * 3 if label == "N" else [2100, 3050, 88]
            rows.append([name, "MLOLT", "D", abnormality, label, *place])
            if label == "M":
                picture(root / "ROI Masks" / f"{name}.tif", "L")
    rows[-1][4] = None  # NORM, class left blank
    rows[-2][0] += " "
    rows[-3][4] = "N "
    rows.append(["IMG001", "MLOLT", "D", "MISC+CALC", "M", 10, 20, 30])  # a second abnormality, malignant
    rows.append(["IMG777", "CCRT", "F", "CIRC", "B", 1, 2, 3])  # no such image
    rows.append(["IMG888", "CCRT", "F", "CIRC", None, 1, 2, 3])  # an abnormality without a class
    picture(root / images / "IMG888.tif", "L")
    picture(root / images / "IMG999.tif", "L")  # no such row
    (root / "Reports").mkdir(exist_ok=True)
    (root / "Reports" / "Img001.txt").write_text("BIRADS: 2", encoding="utf-8")
    sheet(root / table, rows)
    return root


def busi(root, per_class=10, folders=("benign", "malignant", "normal"), masks=True):
    for folder in folders:
        name = folder.split("_")[0]
        for number in range(1, per_class + 1):
            picture(root / folder / f"{name} ({number}).png", "RGBA" if number == 2 else "RGB")
            if masks:
                picture(root / folder / f"{name} ({number})_mask.png", "1")
        if masks:
            picture(root / folder / f"{name} (4)_mask_1.png", "1")
            picture(root / folder / f"{name} (4)_mask_2.png", "1")
    return root


def busi_split(path, per_class=10):
    """BiomedCoOp's file: half for training, two for validation, the rest for testing; the last image is not in it."""
    table = {"train": [], "val": [], "test": []}
    for label, folder in enumerate(("benign_tumor", "malignant_tumor", "normal_scan")):
        name = folder.split("_")[0]
        for number in range(1, per_class):
            split = "train" if number <= per_class // 2 else "val" if number <= per_class // 2 + 2 else "test"
            table[split].append([f"{folder}/{name} ({number}).png", label, folder.replace("_", " ")])
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


def everything(root):
    """All six below one folder."""
    midas(root / "midasmultimodalimagedatasetforaibasedskincancer")
    derm7pt(root / "release_v0")
    cc_ccii(root / "cc-ccii")
    chest_xray(root / "chest-xray-covid19-pneumonia" / "Data")
    dmid(root / "DMID")
    busi(root / "Dataset_BUSI_with_GT")
    return root
