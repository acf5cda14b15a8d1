"""Finds the images of a folder that fit a sentence best; what is new in the folder is embedded first.

python scripts/search.py photos "a woman in a red coat" --model outputs/quickstart
python scripts/search.py photos --image seen.jpg --where "camera = 'c3'" -k 20 --html found.html
"""

import sys

from modeling_amns.commands import run

if __name__ == "__main__":
    sys.exit(run("search", sys.argv[1:], "search.py"))
