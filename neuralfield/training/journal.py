"""What a fit leaves to look at: TensorBoard scalars, probe pictures over time, codes as an embedding with sprites."""

import math
import time
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image as Picture
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.tensorboard import SummaryWriter

from neuralfield.domains.domain import Domain
from neuralfield.domains.pictures import sheet
from neuralfield.inference.thinning import glanced_at
from neuralfield.recipe import Model
from neuralfield.signals.signals import Signals
from neuralfield.types import Field, Latent, Loss, spread

PROBES = 12
"""Signals whose pictures are kept over time: one row of a contact sheet."""
SHARE = 0.1
"""Of the time, what looks between landmarks may take."""
SURFACES, SURFACE_RESOLUTION = 3, 64
"""Probes whose surfaces TensorBoard shows, and samples of them along every axis."""
EMBEDDED = 1000
"""Codes shown in TensorBoard's projector; its sprite must stay below 8192 pixels a side."""


class Journal:
    """Writes into a run's folder; pictures of probes are one file per look, so that a resumed fit keeps them.

    Where a look at the probes takes longer than an epoch, most epochs go without one: they may cost a tenth of the time.
    """

    def __init__(self, folder: Path, domain: Domain, signals: Signals) -> None:
        self.folder, self.domain, self.signals = folder, domain, signals
        self.index = spread(len(signals), PROBES)
        self.progress = folder / "figures" / "progress"
        self.progress.mkdir(parents=True, exist_ok=True)
        self.board = SummaryWriter(str(folder), purge_step=None)
        self.truth = glanced_at(signals.truth(self.index), domain)
        self.began, self.spent, self.score = time.perf_counter(), 0.0, math.nan

    def epoch(self, model: Model, epoch: int, loss: Loss, mean: float, codes: Float[Tensor, "p D"]) -> float:
        """Scalars of an epoch, and its probes where it is a landmark. Returns the probes' score, the last that was taken.

        `mean` is that of `loss.total`, `codes` are those of the probes: several ranks have found them together.
        """
        now = time.perf_counter()
        if _is_landmark(epoch) or self.spent <= SHARE * (now - self.began):
            self._look(model, epoch, codes)
            self.spent += time.perf_counter() - now
        observed = loss.observed.sum().clamp(min=1)
        self.board.add_scalar("codes/length", codes.norm(dim=1).mean().item(), epoch)
        self.board.add_scalar("loss/total", mean, epoch)
        self.board.add_scalar("loss/data", (loss.data.sum() / observed).item(), epoch)
        self.board.add_scalar("loss/prior", (loss.prior.sum() / observed).item(), epoch)
        for name, term in loss.terms.items():
            self.board.add_scalar(f"loss/{name}", float(term), epoch)
        return self.score

    @torch.no_grad()
    def _look(self, model: Model, epoch: int, codes: Float[Tensor, "p D"]) -> None:
        """The probes' scores, and at landmarks their pictures and surfaces."""
        truth = self.truth.to(next(model.decoder.parameters()).device)
        field = model.objective.field(Latent(codes.to(truth.values.device)), model.decoder)
        scores = self.domain.score(field, truth)
        for name, values in scores.items():
            self.board.add_scalar(f"probes/{name}", values.nanmean().item(), epoch)
        self.score = scores[self.domain.headline].nanmean().item()
        if _is_landmark(epoch):
            pictures = self.domain.render(field)
            self.board.add_images("reconstructions", pictures, epoch, dataformats="NHWC")
            Picture.fromarray(rearrange(pictures, "b h w c -> h (b w) c")).save(self.progress / f"epoch-{epoch:05d}.png")
            self._add_surfaces(field, epoch)

    def _add_surfaces(self, field: Field, epoch: int) -> None:
        for b in range(min(SURFACES, len(field)) if self.domain.solid else 0):
            surface, _ = self.domain.surface(field.rows(slice(b, b + 1)), SURFACE_RESOLUTION)
            if len(surface):
                vertices, faces = (torch.from_numpy(array)[None] for array in (surface.vertices, surface.elements))
                self.board.add_mesh(
                    f"surfaces/{self.signals.ids[int(self.index[b])]}", vertices.float(), faces=faces, global_step=epoch
                )

    def close(self, model: Model, codes: torch.Tensor) -> None:
        """Reconstructions over time as one sheet, and the embedding."""
        device = next(model.decoder.parameters()).device
        with torch.no_grad():
            final = self.domain.render(model.objective.field(Latent(codes[self.index].to(device)), model.decoder))
        rows = {"data": self.domain.draw(self.signals.truth(self.index))}
        for file in sorted(self.progress.glob("epoch-*.png")):
            strip = np.asarray(Picture.open(file).convert("RGB"))
            rows[f"epoch {int(file.stem.removeprefix('epoch-'))}"] = rearrange(strip, "h (b w) c -> b h w c", b=len(self.index))
        rows["final"] = final
        sheet(rows).save(self.folder / "figures" / "reconstructions.png")
        some = spread(len(codes), EMBEDDED)
        sprites = torch.from_numpy(self.domain.draw(self.signals.truth(some))).permute(0, 3, 1, 2).float() / 255
        labels = self.signals.labels
        names = [str(int(labels[i])) if labels is not None else self.signals.ids[i] for i in some.tolist()]
        # the projector's sprite is one picture of all of them: more than 32 pixels each is never seen
        sprites = interpolate(sprites, size=[min(32, side) for side in sprites.shape[2:]], mode="area")
        self.board.add_embedding(codes[some], metadata=names, label_img=sprites, tag="codes")
        self.board.close()


def _is_landmark(epoch: int) -> bool:
    """1, 2, 3, 4, 7, 12, 20, 33 ...: early epochs change most."""
    return any(epoch == round(math.exp(k / 2)) for k in range(2 * 14)) or epoch == 2
