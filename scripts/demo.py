"""Shows a page that searches an indexed folder of person images: sentence, filters, images, more of the same.

python scripts/demo.py photos
python scripts/demo.py photos --model outputs/quickstart --port 8000
"""

import sys

from modeling_amns.commands import run

if __name__ == "__main__":
    sys.exit(run("demo", sys.argv[1:], "demo.py"))
