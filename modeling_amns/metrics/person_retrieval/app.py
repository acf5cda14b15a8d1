"""Page of the metric as a Hugging Face Space: its card; embeddings are no input for a web form."""

from pathlib import Path

import gradio as gr

card = Path(__file__).with_name("README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
with gr.Blocks() as page:
    gr.Markdown(card)

if __name__ == "__main__":
    page.launch()
