"""A small backbone that learned to read from fonts: it has never seen a handwritten digit."""

import random
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from safetensors.torch import save_file
from torch.nn import functional as F  # noqa: N812

from kmat.backbone import load_backbone

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = ("{}.", "a photo of the {}.", "the {}", "an {} with a dark edge.")
FONTS = sorted(
    path
    for path in (Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("*.ttf")
    if path.stem.startswith(("DejaVu", "STIXGeneral")) and "Display" not in path.stem
)


def glyph(digit, rng):
    """A printed digit, slanted, shifted, thickened and blurred at random; some as coarse as 8 x 8."""
    font = ImageFont.truetype(str(rng.choice(FONTS)), rng.randint(26, 40))
    image = Image.new("L", (48, 48))
    ImageDraw.Draw(image).text(
        (24 + rng.uniform(-3, 3), 24 + rng.uniform(-3, 3)),
        str(digit),
        font=font,
        fill=255,
        anchor="mm",
        stroke_width=rng.randint(0, 1),
    )
    slant = rng.uniform(-0.4, 0.4)
    image = image.transform(
        (48, 48), Image.Transform.AFFINE, (1, slant, -24 * slant, 0, 1, 0), Image.Resampling.BILINEAR
    )
    image = image.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR)
    box = image.getbbox()
    margin = rng.randint(0, 8)
    image = image.crop((box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin)).resize((32, 32))
    if rng.random() < 0.4:
        image = image.resize((8, 8), Image.Resampling.BOX)
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.6))).convert("RGB")


def train_to_read(folder, steps=500, batch=64):
    """Train the backbone in ``folder`` to match glyphs with their names, and save it there."""
    rng = random.Random(0)  # noqa: S311
    torch.manual_seed(0)
    backbone = load_backbone(f"local-dir:{folder}")
    model = backbone.model.train().requires_grad_(True)
    model.text.eval()  # its dropout would only slow this down
    pool = [(backbone.preprocess(glyph(i % 10, rng)), i % 10) for i in range(4000)]
    ids = torch.stack([backbone._tokenizer([t.format(n) for n in NAMES])[:, :16] for t in TEMPLATES])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, steps)
    for _ in range(steps):
        images, labels = zip(*rng.sample(pool, batch), strict=True)
        texts = model.encode_text(ids[rng.randrange(len(TEMPLATES))], normalize=True)
        logits = model.logit_scale.exp() * model.encode_image(torch.stack(images), normalize=True) @ texts.T
        optimiser.zero_grad()
        F.cross_entropy(logits, torch.tensor(labels)).backward()
        optimiser.step()
        schedule.step()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder
