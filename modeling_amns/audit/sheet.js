
"use strict";
(() => {
  const { key, pairs, images } = JSON.parse(document.getElementById("data").textContent);
  const CHOICES = { r: "right", w: "wrong", u: "unsure" };
  const COLUMNS = ["row", "path", "caption", "decision"];
  const $ = (id) => document.getElementById(id);
  const number = (value) => value.toLocaleString("en");
  const decided = pairs.map(() => null);
  const placeOf = new Map(pairs.map((pair, at) => [String(pair.row), at]));
  const past = [];
  const cards = [];
  let current = -1;
  let kept = true;
  let unsaved = false;

  // Texts of the data are put in as text only, wherever they go.
  function picture(holder, image, told) {
    if (image === null) {
      holder.textContent = "can't be read";
      return;
    }
    const img = document.createElement("img");
    img.alt = told;
    img.decoding = "async";
    img.dataset.image = image;
    holder.append(img);
  }

  function build(pair) {
    const card = $("card").content.firstElementChild.cloneNode(true);
    const put = (name, text) => { card.querySelector(name).textContent = text; };
    put(".row", `Row ${pair.row}`);
    put(".person", `person ${pair.person}`);
    put(".probability", pair.probability === null ? "probability unknown" : `wrong with probability ${pair.probability.toFixed(3)}`);
    put(".caption", pair.caption);
    put(".path", pair.path);
    for (const reason of pair.why) {
      const line = document.createElement("li");
      line.textContent = reason;
      card.querySelector(".why").append(line);
    }
    picture(card.querySelector(".own .picture"), pair.image, `Image of row ${pair.row}`);
    if (pair.better !== null) {
      card.querySelector(".better").hidden = false;
      put(".better span", pair.better.path);
      picture(card.querySelector(".better .picture"), pair.better.image, `Fits the caption of row ${pair.row} better`);
    }
    card.querySelector(".own-image").hidden = pair.better !== null;
    if (pair.better_caption === null) put(".fits", "No other caption fits this image better.");
    else put(".fits q", pair.better_caption);
    return card;
  }

  // Only what is near the window has its pictures: a thousand are not decoded at once.
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      for (const img of target.querySelectorAll("img")) img.src = images[Number(img.dataset.image)];
    }
  }, { rootMargin: "1500px 0px" });

  const words = pairs.map((pair) =>
    [pair.caption, pair.path, pair.person, pair.better_caption || ""].join("\n").toLowerCase());

  function fits(at) {
    if ($("undecided").checked && decided[at]) return false;
    const least = $("least").valueAsNumber;
    if (least > 0 && !(pairs[at].probability >= least)) return false;
    return words[at].includes($("text").value.trim().toLowerCase());
  }

  function paint(at) {
    const card = cards[at];
    if (decided[at]) card.dataset.decision = decided[at];
    else delete card.dataset.decision;
    for (const button of card.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.decision === decided[at]));
    }
    card.hidden = !fits(at);
  }

  function count() {
    const of = (choice) => decided.filter((one) => one === choice).length;
    const all = decided.filter(Boolean).length;
    const shown = cards.filter((card) => !card.hidden).length;
    const each = all ? `: ${["right", "wrong", "unsure"].map((one) => `${number(of(one))} ${one}`).join(", ")}` : "";
    const part = shown < pairs.length ? ` · ${number(shown)} shown` : "";
    $("count").textContent = `${number(all)} of ${number(pairs.length)} decided${each}${part}`;
    $("progress").max = Math.max(1, pairs.length);
    $("progress").value = all;
    $("save").disabled = !all;
    $("undo").disabled = !past.length;
    $("none").hidden = shown > 0;
    const left = pairs.length ? "No pair is left by these filters." : "No pair is suspect.";
    $("none").textContent = all && all === pairs.length ? "All pairs are decided: save the CSV." : left;
  }

  const note = (text) => { $("note").textContent = text; };

  function mark(at) {
    cards[current]?.removeAttribute("aria-current");
    current = at;
    cards[at]?.setAttribute("aria-current", "true");
  }

  function go(at) {
    mark(at);
    if (at < 0) return;
    cards[at].focus({ preventScroll: true });
    // What is taller than the window is read from its beginning, below the bar.
    const tall = cards[at].offsetHeight > innerHeight - 2 * $("bar").offsetHeight;
    cards[at].scrollIntoView({ block: tall ? "start" : "center" });
  }

  function beside(at, step) {
    for (let next = at + step; next >= 0 && next < cards.length; next += step) if (!cards[next].hidden) return next;
    return -1;
  }

  function settle() {
    if (current >= 0 && !cards[current].hidden) return;
    const next = beside(current, 1);
    mark(next >= 0 ? next : beside(current, -1));
  }

  function keep() {
    const rows = {};
    decided.forEach((choice, at) => { if (choice) rows[pairs[at].row] = choice; });
    try {
      localStorage.setItem(key, JSON.stringify(rows));
      kept = true;
    } catch {
      // Forbidden, or full.
      kept = false;
    }
    $("unkept").hidden = kept;
  }

  function remembered() {
    try {
      const rows = JSON.parse(localStorage.getItem(key) || "{}");
      pairs.forEach((pair, at) => {
        const choice = Object.hasOwn(rows, pair.row) ? rows[pair.row] : null;
        decided[at] = Object.values(CHOICES).includes(choice) ? choice : null;
      });
    } catch {
      // What can't be read can't be kept either, which `keep` tells.
    }
  }

  // What is changed together is undone together.
  function change(changes) {
    past.push(changes.map(([at]) => [at, decided[at]]));
    for (const [at, choice] of changes) decided[at] = choice;
    unsaved = true;
    keep();
    for (const [at] of changes) paint(at);
    count();
  }

  function decide(at, choice, moves) {
    const last = beside(at, 1) < 0;
    change([[at, choice]]);
    const told = `Row ${pairs[at].row}: ${choice || "undecided"}.`;
    note(last && moves ? `${told} It was the last pair shown.` : told);
    if (moves && !last) go(beside(at, 1));
    else if (cards[at].hidden) settle();
    else mark(at);
  }

  function undo() {
    const changes = past.pop();
    if (!changes) return;
    for (const [at, choice] of changes) decided[at] = choice;
    keep();
    for (const [at] of changes) paint(at);
    count();
    const [at, choice] = changes[0];
    note(changes.length > 1 ? `${number(changes.length)} decisions undone.`
      : `Row ${pairs[at].row}: ${choice || "undecided"} again.`);
    if (cards[at].hidden) settle();
    else go(at);
  }

  const cell = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

  function save() {
    const lines = [COLUMNS];
    decided.forEach((choice, at) => {
      if (choice) lines.push([String(pairs[at].row), pairs[at].path, pairs[at].caption, choice]);
    });
    const text = lines.map((line) => `${line.map(cell).join(",")}\r\n`).join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = "decisions.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    unsaved = false;
    note(`${number(lines.length - 1)} decisions are in decisions.csv.`);
  }

  function parse(text) {
    const lines = [];
    let line = [];
    // A quoted cell, or one up to the next comma or end of line.
    const one = /(?:"((?:[^"]|"")*)"|([^,\r\n]*))(,|\r\n|\n|\r|$)/gy;
    while (one.lastIndex < text.length) {
      const found = one.exec(text);
      if (!found) return null;
      line.push(found[1] === undefined ? found[2] : found[1].replaceAll('""', '"'));
      if (found[3] !== ",") {
        lines.push(line);
        line = [];
      } else if (one.lastIndex === text.length) {
        line.push("");
      }
    }
    if (line.length) lines.push(line);
    return lines;
  }

  function load(name, text) {
    const [head, ...lines] = parse(text.replace(/^\uFEFF/, "")) || [[]];
    const places = COLUMNS.map((column) => (head || []).indexOf(column));
    if (places.includes(-1)) {
      note(`${name} is no CSV of decisions; expected the columns ${COLUMNS.join(", ")}.`);
      return;
    }
    const same = (one, other) => one.replace(/\r\n?/g, "\n") === other.replace(/\r\n?/g, "\n");
    const changes = new Map();
    let strange = 0;
    for (const line of lines.filter((cells) => cells.some(Boolean))) {
      const [row, path, caption, choice] = places.map((at) => line[at] ?? "");
      const at = placeOf.get(row.trim());
      const known = at !== undefined && same(path, pairs[at].path) && same(caption, pairs[at].caption);
      if (known && Object.values(CHOICES).includes(choice.trim())) changes.set(at, choice.trim());
      else strange += 1;
    }
    if (changes.size) change([...changes]);
    settle();
    const left = strange ? ` ${number(strange)} lines are left out: their row, path and caption are not in this sheet,`
      + " or their decision is none of right, wrong, unsure." : "";
    note(`${number(changes.size)} decisions are taken from ${name}.${left}`);
  }

  function filter() {
    pairs.forEach((_, at) => { cards[at].hidden = !fits(at); });
    count();
    settle();
  }

  for (const pair of pairs) cards.push(build(pair));
  remembered();
  pairs.forEach((_, at) => paint(at));
  $("pairs").append(...cards);
  for (const card of cards) near.observe(card);
  count();
  keep();
  const first = decided.findIndex((choice) => !choice);
  mark(cards.length ? Math.max(0, first) : -1);
  if (first > 0) {
    // Work goes on where it was left.
    history.scrollRestoration = "manual";
    go(first);
  }

  $("pairs").addEventListener("click", (event) => {
    const at = cards.indexOf(event.target.closest("#pairs > li"));
    if (at < 0) return;
    const choice = event.target.closest("button")?.dataset.decision;
    if (!choice) mark(at);
    else decide(at, decided[at] === choice ? null : choice, false);
  });
  $("filters").addEventListener("input", filter);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("undo").addEventListener("click", undo);
  $("save").addEventListener("click", save);
  $("load").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", async () => {
    const [file] = $("file").files;
    if (file) load(file.name, await file.text());
    // The same file can be chosen again.
    $("file").value = "";
  });
  // The same sheet in another window.
  window.addEventListener("storage", (event) => {
    if (event.key !== key) return;
    remembered();
    past.length = 0;
    pairs.forEach((_, at) => paint(at));
    count();
    settle();
  });
  window.addEventListener("beforeunload", (event) => { if (unsaved && !kept) event.preventDefault(); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input:not([type=checkbox])")) {
      if (event.key === "Escape" || event.key === "Enter") event.target.blur();
      return;
    }
    const pressed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const step = { j: 1, ArrowDown: 1, ArrowRight: 1, k: -1, ArrowUp: -1, ArrowLeft: -1 }[pressed];
    if (step) {
      const next = beside(current, step);
      if (next >= 0) go(next);
    } else if (Object.hasOwn(CHOICES, pressed) && current >= 0 && !event.repeat) decide(current, CHOICES[pressed], true);
    else if (pressed === "z") undo();
    else return;
    event.preventDefault();
  });
})();
