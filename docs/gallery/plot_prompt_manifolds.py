"""
Prompt manifolds of two modalities
==================================

kmat ties what a CLIP's text tower says of one imaging modality to what it says of another. Here the tower is the tiny CLIP that kmat
ships, **trained by this project on synthetic phantoms**: the picture shows the computation, not a finding about clinical models.
"""

# %%
# Sentences that describe the classes in both modalities, as features of unit length.
import json
from importlib.resources import files

import matplotlib.pyplot as plt
import torch

import fgwot
from fgwot import plot
from kmat.model.backbone import load_backbone

sentences = json.loads((files("kmat") / "descriptions" / "chest_phantom.json").read_text())
backbone = load_backbone("phantom:seed0")
classes = list(sentences["descriptions"])


def encode(modality):
    texts = [text for name in classes for text in sentences["descriptions"][name][modality][:15]]
    return backbone.encode_texts(texts).double()


high, low = encode("high"), encode("low")
types = torch.repeat_interleave(torch.arange(len(classes)), 15)


# %%
# FGW between both sets: features compared directly, distances within each set as structure.
def solve(high, low):
    M, C1, C2 = 1 - high @ low.T, 1 - high @ high.T, 1 - low @ low.T
    return fgwot.fused_gromov_wasserstein(M, C1, C2, alpha=0.1, epsilon=0.02)


solution = solve(high, low)
same = float(solution.plan[types[:, None] == types].sum())
print(f"{solution}; {same:.0%} of the mass stays within its class, by chance {1 / len(classes):.0%}")

# %%
# One sentence says little, and the plan shows it. K-MaT compares the means of classes.
means = [t.view(len(classes), 15, -1).mean(1) for t in (high, low)]
coupling = solve(*(t / t.norm(dim=1, keepdim=True) for t in means))
print(f"{float(coupling.plan.trace()):.0%} of the mass stays within its class")

# %%
# Both sets on the two first principal axes of all sentences.
everything = torch.cat([high, low])
centred = everything - everything.mean(0)
axes2 = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
x, y = (centred @ axes2.T).split(len(high))
figure, axes = plt.subplots(1, 2, figsize=(10.5, 4))
plot.matching(solution, x, y, ax=axes[0])
axes[0].set_title("sentences of the high and of the low modality")
plot.heat_map(coupling, ax=axes[1])
axes[1].set_xticks(range(len(classes)), classes)
axes[1].set_yticks(range(len(classes)), classes)
axes[1].set(xlabel="low modality", ylabel="high modality", title="means of classes")
figure.tight_layout()
