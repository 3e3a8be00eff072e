"""The convolutions that CTransPath puts in the place of a Swin transformer's patch embedding."""

from typing import Any

from torch import Tensor, nn


class ConvStem(nn.Module):
    """Patches of 4 × 4 px by two strided convolutions and a projection.

    References
    ----------
    Wang et al., Transformer-based unsupervised contrastive learning for histopathological image
    classification, Medical Image Analysis 81 (2022), doi:10.1016/j.media.2022.102559.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: type[nn.Module] | None = None,
        **_: Any,  # noqa: ANN401  what timm's own patch embedding also takes
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.grid_size = (height // patch_size, width // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        narrow, wide = embed_dim // 8, embed_dim // 4
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, narrow, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, embed_dim, 1),
        )
        self.norm = nn.Identity() if norm_layer is None else norm_layer(embed_dim)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Embed patches.

        Parameters
        ----------
        image_BCHW
            (B, 3, H, W).

        Returns
        -------
        Tensor
            (B, H / 4, W / 4, D), as timm's Swin transformer goes on with.
        """
        tokens: Tensor = self.norm(self.proj(image_BCHW).permute(0, 2, 3, 1))
        return tokens
