"""All families of bases, and which of them a folder belongs to."""

from pathlib import Path

from hdb.diffusion.families.family import Family, find_config, read_json
from hdb.diffusion.families.sd1 import StableDiffusion1
from hdb.diffusion.families.sdxl import StableDiffusionXL

FAMILIES: tuple[Family, ...] = (StableDiffusion1(), StableDiffusionXL())
# Folders of published configurations, by name.
PUBLISHED_CONFIGS = {family.config_name: family.config_folder for family in FAMILIES}


def family_of_pipeline(folder: Path) -> Family:
    """The family of a pipeline's folder, by the class in its model_index.json.

    Raises:
        ValueError: model_index.json is missing, unreadable or of another class.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"{folder} is no diffusers pipeline folder: expected a file model_index.json in it")
    class_name = read_json(index).get("_class_name")
    for family in FAMILIES:
        if family.pipeline_class.__name__ == class_name:
            return family
    expected = " or ".join(f"a {family.pipeline_class.__name__} ({family.versions})" for family in FAMILIES)
    raise ValueError(
        f"{folder} holds a {class_name}: expected {expected}; models for inpainting and of other families are not "
        "supported"
    )


def family_of_configs(folder: Path) -> Family:
    """The family of a pipeline's folder or of a folder of configurations alone, by the parts that it has.

    Raises:
        ValueError: model_index.json is unreadable or of another class.
    """
    if (folder / "model_index.json").is_file():
        return family_of_pipeline(folder)
    # The family with the most parts, since the parts of one can be a share of those of another.
    for family in sorted(FAMILIES, key=lambda family: -len(family.config_parts)):
        if all(find_config(folder, part) is not None for part in family.config_parts):
            return family
    return FAMILIES[0]
