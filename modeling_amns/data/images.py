"""placeholder"""
from PIL import Image
import io
def decode_image(image, where=None, size=None):
    if isinstance(image, dict):
        image = Image.open(image["path"] if image.get("bytes") is None else io.BytesIO(image["bytes"]))
    return image.convert("RGB")
