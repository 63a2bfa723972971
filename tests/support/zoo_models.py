"""The tiny random models of the zoo's classes, and one of Mllama, which no adapter is proven for."""

from pathlib import Path

from medmim.lvlm import llava
from medmim.tiny import zoo_classes
from medmim.tiny.zoo_classes import CLASSES, image_processor, tokenizer

__all__ = ["CLASSES", "build", "image_processor", "tokenizer"]


def build(kind: str, folder: Path, seed: int = 0) -> Path:
    """As `zoo_classes.build`, of `mllama` too."""
    if kind != "mllama":
        return zoo_classes.build(kind, folder, seed)
    words = tokenizer(["<|image|>", "<|python_tag|>"], {"image_token": "<|image|>"}, bos="<bos>")
    reader = image_processor("mllama", size={"height": 32, "width": 32}, max_image_tiles=4)
    ratios = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
    rope = zoo_classes.ROPE
    config = llava.quiet_transformers().MllamaConfig(
        text_config=zoo_classes.decoder(
            len(words) - 1, cross_attention_layers=[1], bos_token_id=2, rope_parameters=rope
        ),
        vision_config=dict(
            hidden_size=32, num_hidden_layers=2, num_global_layers=1, attention_heads=4, intermediate_size=64,
            image_size=32, patch_size=8, vision_output_dim=64, intermediate_layers_indices=[0], max_num_tiles=4,
            supported_aspect_ratios=ratios,
        ),
        image_token_index=words.image_token_id,
    )  # fmt: skip
    processor = zoo_classes.with_template(kind, reader, words, "<|image|>")
    return zoo_classes.save(processor, config, "MllamaForConditionalGeneration", folder, seed)
