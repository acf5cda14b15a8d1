"""Look of the page, and the one script of it that is ours."""

CSS = """
.gradio-container { margin: 0 auto !important; max-width: 76rem !important; width: 100%; }
.gradio-container > .main { padding: 1rem !important; width: 100%; }
footer { display: none !important; }
.html-container { padding: 0 !important; }
.amns-head h1 { font-size: 1.375rem; font-weight: 600; line-height: 1.3; margin: 0; }
.amns-head p { margin: .15rem 0 0; overflow-wrap: anywhere; }
.amns-head p, .note, .hits .score, .hits dt, .hits .gone { color: var(--body-text-color); opacity: .72; }
.amns-ask > button { align-self: end; min-height: 2.75rem; }
.amns-image { align-items: center !important; flex-wrap: wrap !important; }
.amns-image > * { flex: 0 1 auto !important; min-width: 0 !important; width: auto !important; }
.amns-image button { font-size: .875rem; font-weight: 500; min-height: 2.75rem; padding: 0 1rem; }
.query { align-items: center; display: flex; gap: .6rem; max-width: 100%; }
.query img { border-radius: .25rem; height: 3.5rem; max-width: 6rem; object-fit: contain; }
.query span { max-width: 60vw; overflow-wrap: anywhere; }
.amns-line p { margin: 0; overflow-wrap: anywhere; }
.amns-line .failed { border-left: 3px solid #c2410c; font-weight: 500; padding: .1rem 0 .1rem .6rem; }
.hits { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fill, minmax(min(11.5rem, 46%), 1fr));
  list-style: none; margin: 0; padding: 0; }
.hits li { border: 1px solid var(--border-color-primary); border-radius: .5rem; display: flex; flex-direction: column;
  margin: 0; min-width: 0; overflow: hidden; }
.hits .picture { align-items: center; background: var(--background-fill-secondary); display: flex; height: 13rem;
  justify-content: center; }
.hits img { height: 100%; max-width: 100%; object-fit: contain; }
.hits .gone { padding: 1rem; text-align: center; }
.hits .text { flex: 1; font-size: .875rem; padding: .5rem .6rem; }
.hits p { margin: 0; }
.hits .score { float: right; font-variant-numeric: tabular-nums; }
.hits .path { font-size: .8125rem; overflow-wrap: anywhere; }
.hits dl { font-size: .8125rem; margin: .3rem 0 0; }
.hits dl div { display: flex; gap: .4rem; }
.hits dt { flex: none; }
.hits dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
.hits .buttons { border-top: 1px solid var(--border-color-primary); display: grid; gap: 1px;
  background: var(--border-color-primary); }
.hits .buttons:empty { display: none; }
.hits button { background: var(--body-background-fill); border: 0; color: var(--body-text-color); cursor: pointer;
  font: inherit; font-size: .8125rem; min-height: 2.75rem; padding: .25rem .5rem; }
.hits button:hover { background: var(--background-fill-secondary); }
.hits button:focus-visible { outline: 2px solid var(--color-accent); outline-offset: -2px; }
"""

# A click on a button of a card tells which and of what place; a path the page never sends.
CLICKS = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-act]");
  if (!button) return;
  trigger("click", {act: button.dataset.act, place: Number(button.dataset.place)});
  // What follows replaces all results: it is read from its beginning.
  if (button.dataset.act === "like") document.querySelector(".amns-ask").scrollIntoView();
});
"""

__all__ = ["CLICKS", "CSS"]
