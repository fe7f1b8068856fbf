"""A product cut-out on the canvas of an ad: its pixels there, and the ad's exact size at the end."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .cut_out import resize_cut_out, resize_image
from .formats import AdFormat
from .opacity import SEEN_ABOVE
from .placement import Layout, Placement, plan_placement

STEP = 1.01 / 255  # of a saved file's colours
_CONNECT = "connect image and product_mask of PFV Ad Canvas"


@dataclass(frozen=True)
class AdCanvas:
    """Products on the canvas of one ad format.

    Attributes:
        format: the ad's size, and the frame and size it is sampled in.
        product_mask: (N, H, W), of the photos: bool, True = product; or float, 0..1, its opacity.
        placements: one for each.
        shown: what `place` gave for the photos; None = it was not asked.
    """

    format: AdFormat
    product_mask: Tensor
    placements: tuple[Placement, ...]
    shown: tuple[Tensor, Tensor] | None = None

    @classmethod
    def plan(cls, product_mask: Tensor, ad_format: AdFormat, layout: Layout) -> AdCanvas:
        """Place every product of a batch; see `plan_placement`, whose errors name the product."""
        placements = []
        for index, mask in enumerate(product_mask):
            try:
                placements.append(plan_placement(mask > SEEN_ABOVE, ad_format.size, layout))
            except ValueError as error:
                raise ValueError(f"product {index}: {error}") from error
        return cls(ad_format, product_mask, tuple(placements))

    def place(self, image: Tensor, backdrop: float) -> tuple[Tensor, Tensor]:
        """Products, or other images of the same photos such as their depth, in the frame.

        Args:
            image: (N, C, H, W) float, of the photos' size; batch 1 serves every product.
            backdrop: what stands around the products, 0..1.

        Returns:
            (N, C, frame height, frame width), and where the products are, (N, frame height, frame width), of the mask's
            kind: an opacity comes along. Colours are not multiplied with it. Nothing of the photo outside its mask, or
            outside the product's box, has an influence. A product that is not resized keeps its bits; one that is comes
            in steps of 1/255, so that a saved file holds just these values.

        Raises:
            ValueError: another size or batch than the photos', a backdrop outside 0..1, or a product so thin that nothing of it
                is left.
        """
        if not 0 <= backdrop <= 1:
            raise ValueError(f"backdrop is {backdrop:g}, expected a grey from 0 (black) to 1 (white)")
        image = self._for_every_product(image)
        placed = image.new_full((len(self.placements), image.shape[1], *self.format.frame), backdrop)
        mask = torch.zeros(len(self.placements), *self.format.frame, dtype=self.product_mask.dtype)
        for index, placement in enumerate(self.placements):
            rows, columns = placement.source.slices
            colours, kept = image[index, :, rows, columns], self.product_mask[index, rows, columns]
            if placement.resized:
                size = (placement.target.height, placement.target.width)
                colours, kept = resize_cut_out(colours, kept, size)
                colours = (255 * colours).round() / 255
            if not bool((kept > SEEN_ABOVE).any()):
                raise ValueError(
                    f"product {index} is thinner than a pixel at {placement.target.width}x{placement.target.height} "
                    "pixels: raise share, or choose a larger format"
                )
            rows, columns = placement.target.slices
            mask[index, rows, columns] = kept
            placed[index, :, rows, columns] = torch.where(kept > 0, colours, backdrop)
        return placed, mask

    def check_placed(self, product: Tensor, opacity: Tensor) -> None:
        """Refuse products that are not those which were placed here.

        Args:
            product: (N, C, height, width) of the finished ad, float, 0..1.
            opacity: (N, height, width), float 0..1 or bool, as they are to be pasted.

        Raises:
            ValueError: another number of products, a mask that selects what was not placed, or other pixels inside it; by up to
                a step of 1/255, as a saved file rounds them, they may differ.
        """
        assert self.shown is not None, "nothing is known of what was placed"
        height, width = self.format.size
        placed, placed_opacity = (part[..., :height, :width] for part in self.shown)
        if len(product) != len(placed):
            raise ValueError(f"product holds {len(product)} pictures, the canvas {len(placed)}: {_CONNECT}")
        beyond = (opacity > SEEN_ABOVE) & (placed_opacity == 0)
        others = ((product - placed).abs().amax(1) > STEP) & (opacity > SEEN_ABOVE)
        for index, placement in enumerate(self.placements):
            box = placement.target
            where = f"columns {box.left}..{box.right} and rows {box.top}..{box.bottom}"
            if bool(beyond[index].any()):
                raise ValueError(
                    f"product_mask selects {int(beyond[index].sum())} pixels where the canvas has not placed product {index}, "
                    f"which stands in {where}: {_CONNECT}, with product_mask_selects product"
                )
            if bool(others[index].any()):
                raise ValueError(
                    f"{int(others[index].sum())} pixels of product {index} in {where} are not what the canvas placed there: "
                    f"{_CONNECT}. A product that is edited is edited before PFV Ad Canvas"
                )

    def finish(self, image: Tensor) -> Tensor:
        """An image as sampled, or of the frame's size, at the ad's exact size.

        Args:
            image: (B, C, H, W) float, 0..1.

        Returns:
            (B, C, height, width). Where it was sampled at the ad's own scale, its pixels bit for bit, without the rows
            and columns that only the latent needed; at another scale resampled first.

        Raises:
            ValueError: another size.
        """
        size, frame, sampling = self.format.size, self.format.frame, self.format.sampling
        if tuple(image.shape[2:]) not in (frame, sampling):
            raise ValueError(
                f"image is {image.shape[3]}x{image.shape[2]}, the canvas is sampled at {sampling[1]}x{sampling[0]} and "
                f"its frame is {frame[1]}x{frame[0]} (width x height): give it one of these sizes"
            )
        return resize_image(image, frame)[:, :, : size[0], : size[1]]

    def report(self) -> dict[str, Any]:
        """Plain values for a file or a log: sizes as [width, height], boxes as [left, top, width, height], in pixels.

        `scale` of a product is canvas pixels per pixel of the photo: above 1 the photo is enlarged. `trained_share` is the
        sampled area by the one that the model's family was trained on, `training`; None where the model is not known, and
        the share is then of SDXL's. `advice`: what is sampled badly in this format, and what to do.
        """
        frame = self.format
        return {
            "size": list(frame.size[::-1]),
            "frame": list(frame.frame[::-1]),
            "sampling": list(frame.sampling[::-1]),
            "sampling_scale": str(frame.scale),
            "training": None if frame.training is None else asdict(frame.training),
            "trained_share": round(frame.trained_share, 4),
            "advice": frame.advice(),
            "products": [
                {
                    "photo_box": placement.source.as_list(),
                    "box": placement.target.as_list(),
                    "scale": round(placement.scale, 4),
                    "resized": placement.resized,
                }
                for placement in self.placements
            ],
        }

    def _for_every_product(self, image: Tensor) -> Tensor:
        num_products, *photo = self.product_mask.shape
        if list(image.shape[2:]) != photo:
            raise ValueError(
                f"image is {image.shape[3]}x{image.shape[2]}, the product photo was {photo[1]}x{photo[0]} (width x "
                "height): give both the same size"
            )
        if image.shape[0] not in (1, num_products):
            raise ValueError(f"image is a batch of {image.shape[0]} for {num_products} products: give 1, or one each")
        return image.expand(num_products, -1, -1, -1)
