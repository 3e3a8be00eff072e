"""A picture of one slide as it was read: its spots over its image, coloured by counts."""

from pathlib import Path

import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from spahgc.report.saving import save_picture
from spahgc.schema import Slide
from spahgc.store.table import in_pixels

_UNKNOWN_DIAMETER_PX = 100.0


def plot_spots(path: Path, slide: Slide) -> bool:
    """Draw a slide's spots, to scale, over its thumbnail.

    Parameters
    ----------
    path
        File to write; its suffix says which format.
    slide
        As its reader gave it.

    Returns
    -------
    bool
        False, and nothing written, where the slide has no coordinates.
    """
    known_S = np.isfinite(slide.centers).all(axis=1)
    if not known_S.any():
        return False
    figure = Figure(figsize=(8, 7), layout="constrained")
    axis = figure.add_subplot()
    thumbnail = slide.thumbnails.get("hires") or slide.thumbnails.get("lowres")
    if thumbnail is not None:
        height, width = thumbnail.pixels.shape[:2]
        extent = (0, width / thumbnail.scale, height / thumbnail.scale, 0)
        axis.imshow(thumbnail.pixels, extent=extent)
    centers_S2 = slide.centers[known_S]
    diameter = in_pixels(slide.spot_diameter_um, slide.microns_per_pixel) or _UNKNOWN_DIAMETER_PX
    spots = EllipseCollection(
        diameter,
        diameter,
        0,
        units="xy",
        offsets=centers_S2,
        transOffset=axis.transData,
        array=np.asarray(slide.counts.sum(axis=1)).ravel()[known_S],
        cmap="viridis",
        alpha=0.7,
    )
    axis.add_collection(spots)
    if thumbnail is None:
        low, high = centers_S2.min(axis=0) - diameter, centers_S2.max(axis=0) + diameter
        axis.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]))
    axis.set_aspect("equal")
    axis.set(xlabel="x, full-resolution px", ylabel="y, full-resolution px")
    scale = slide.microns_per_pixel
    told = "scale unknown" if scale is None else f"{scale:.4g} µm/px"
    axis.set_title(f"{slide.name}: {len(slide.spots)} spots, {told}")
    if len(slide.genes):
        figure.colorbar(spots, ax=axis, label="counts per spot", shrink=0.7)
    save_picture(figure, path)
    return True
