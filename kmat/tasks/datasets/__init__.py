"""The paper's six datasets, read as they are downloaded."""

from kmat.tasks.datasets import busi, cc_ccii, chest_xray, derm7pt, dmid, midas

DATASETS = {
    "mra-midas": midas.DATASET,
    "derm7pt": derm7pt.DATASET,
    "cc-ccii": cc_ccii.DATASET,
    "chest-xray": chest_xray.DATASET,
    "dmid": dmid.DATASET,
    "busi": busi.DATASET,
}
