"""The demo page over the gallery, the images and the model that lie beside this file."""

import os
import sys
from pathlib import Path

from modeling_amns.commands import run

HERE = Path(__file__).parent

if __name__ == "__main__":
    # Of a Space; by hand the page is this machine's alone.
    host = os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1")
    place = ["--host", host, "--port", os.environ.get("GRADIO_SERVER_PORT", "7860")]
    parts = [str(HERE / "photos"), "--gallery", str(HERE / "gallery"), "--model", str(HERE / "model")]
    sys.exit(run("demo", [*parts, *place], "app.py"))
