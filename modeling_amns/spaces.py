"""The demo page as a Space: page, package, model, gallery and its images in one folder that needs nothing else."""

import json
import shutil
from pathlib import Path

from .cards import template
from .demo.pictures import GalleryPictures
from .disk import names_full_disk
from .retrieval.commands import open_gallery
from .retrieval.encoders import TorchEncoder
from .retrieval.place import LOCK, SETTINGS, write_broken, write_settings

# What a push replaces whole: nothing of an earlier gallery stays beside this one.
PARTS = ("photos", "gallery", "model", "modeling_amns")
# Not of the package: they are for those who train and push.
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "scripts", "hub_cards")


def stage_space(
    images: str | Path,
    folder: str | Path,
    model: str | Path | None = None,
    gallery: str | Path | None = None,
    title: str = "Find a person",
) -> None:
    """Writes what is pushed as a Space.

    The gallery's images as they are (with what cameras wrote into them), its rows without those that were removed, the
    dual encoder and its processor, the package. No path of this machine, no list of what could not be read.

    Args:
        images: folder of images that is indexed.
        folder: an empty folder.
        model: checkpoint; default the one that the gallery was made with.
        gallery: where the gallery lies, default `.amns` in the images' folder.
        title: of the page's card.
    Raises:
        FileNotFoundError: there is no gallery.
        ValueError: it is of another model or of an exported one, or has images that are no longer there or lie outside
            of their folder.
    """
    target = Path(folder)
    found = open_gallery(
        Path(images), None if gallery is None else Path(gallery), None if model is None else str(model)
    )
    encoder, source = found.encoder, found.source
    if not isinstance(encoder, TorchEncoder):
        raise ValueError(f"{encoder.name} is an exported model; pass the checkpoint that it was made of as model.")
    if source is None or found.store is None:
        raise ValueError(f"The gallery of {images} was not made of a folder; index a folder of images.")
    rows, pictures = found.store.read(), GalleryPictures(source)
    files = {path: pictures.file(path) for path in rows.paths}
    if gone := [path for path, file in files.items() if not file.is_file()]:
        raise ValueError(f"{len(gone):,} images are no longer in {source}, {gone[0]} first; run amns index {images}.")
    with names_full_disk(target):
        for path, file in files.items():
            (target / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / "photos" / path)
        found.save(target / "gallery")
        settings = json.loads((target / "gallery" / SETTINGS).read_text(encoding="utf-8"))
        # Where images, metadata and model lay here is nobody's business.
        write_settings(target / "gallery", {"format": settings["format"], "name": "model", "model": settings["model"]})
        write_broken(target / "gallery", {})
        (target / "gallery" / LOCK).unlink(missing_ok=True)
        encoder.model.save_pretrained(target / "model")
        encoder.processor.save_pretrained(target / "model")
        shutil.copytree(Path(__file__).parent, target / "modeling_amns", ignore=_LEFT_OUT)
        for name in ("app.py", "requirements.txt"):
            shutil.copyfile(template(f"space/{name}"), target / name)
        card = template("space/README.md").read_text(encoding="utf-8")
        card = card.replace("{title}", title).replace("{images}", f"{len(rows):,}")
        (target / "README.md").write_text(card, encoding="utf-8")


__all__ = ["PARTS", "stage_space"]
