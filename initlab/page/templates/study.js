"use strict";
const byId = (id) => document.getElementById(id);

// What the page carries is gzip in base64; the library of charts is taken out when the first trial is chosen.
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(byId(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}
let loaded;
function load() {
  loaded ??= Promise.all([unpacked("data"), unpacked("library")]).then(([data, library]) => {
    const script = document.createElement("script");
    script.textContent = library;
    document.head.append(script);
    return JSON.parse(data);
  });
  return loaded;
}

// The table: every heading sorts, what is missing comes last.
const body = byId("trials").tBodies[0];
const heads = [...byId("trials").tHead.rows[0].cells];
const rows = [...body.rows];
const order = new Intl.Collator(undefined, { numeric: true });
function compare(a, b) {
  if (!("value" in a.dataset)) return order.compare(a.textContent, b.textContent);
  return a.dataset.value - b.dataset.value;
}
heads.forEach((head, place) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const sign = head.ariaSort === "ascending" ? -1 : 1;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.ariaSort = sign > 0 ? "ascending" : "descending";
    const missing = (row) => row.cells[place].dataset.value === "";
    rows.sort((a, b) => missing(a) - missing(b) || sign * compare(a.cells[place], b.cells[place]));
    body.append(...rows);
  });
});

const filter = byId("filter");
const choices = [...filter.querySelectorAll("select")];
function sift() {
  const words = filter.elements.words.value.toLowerCase().split(/\s+/);
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const chosen = choices.every((one) => !one.value || row.cells[one.dataset.column].textContent === one.value);
    row.hidden = !(chosen && words.every((word) => text.includes(word)));
  }
  byId("count").value = `${rows.filter((row) => !row.hidden).length} of ${rows.length} trials`;
}
filter.hidden = false;
filter.addEventListener("input", sift);
filter.addEventListener("submit", (event) => event.preventDefault());
sift();

// A trial: its link leads to `#ID`, so that it can be sent, and the browser goes back to the one before.
const charts = {% include "charts.json" %};
const directions = ["forward", "backward"];
const views = {};
let shown;
async function draw(place, datasets) {
  views[place]?.finalize();
  // Vega warns of layers that have no data, as theory has none for code of the user's.
  const layer = charts[place].layer.filter((one) => datasets[one.data.name].length);
  byId(place).hidden = !layer.length;
  if (!layer.length) return;
  const spec = { ...charts[place], layer, datasets, background: null, config: look };
  views[place] = (await vegaEmbed(byId(place), spec, { actions: false, renderer: "svg" })).view;
}
const plain = { labelColor: "currentColor", titleColor: "currentColor", titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 12 };
const look = {
  axis: { ...plain, gridColor: "var(--line)", domainColor: "var(--quiet)", tickColor: "var(--quiet)", grid: true },
  axisX: { grid: false },
  legend: { ...plain, orient: "top" },
  view: { stroke: null },
};
function points(direction) {
  const values = shown.signals.moments[byId("moment").value][direction];
  return shown.signals.layers.map((name, layer) => {
    const value = values[layer];
    return { layer: layer + 1, name, value, variance: value === null ? "0" : (10 ** value).toPrecision(2) };
  });
}
// The axis holds all moments and the theory, so that it stands still when the slider moves.
function domain(direction) {
  const bands = (shown.theory[direction] ?? []).flatMap(({ low, high }) => [low, high]);
  const values = [...bands, ...shown.signals.moments.flatMap((moment) => moment[direction])].filter((v) => v !== null);
  return values.length ? [Math.floor(Math.min(...values)), Math.ceil(Math.max(...values))] : [-1, 1];
}
function sayMoment() {
  const { epoch, step } = shown.signals.moments[byId("moment").value];
  const text = step ? `epoch ${epoch} (step ${step.toLocaleString("en")})` : "before training";
  byId("moment-text").value = text;
  byId("moment").setAttribute("aria-valuetext", text);
}
async function choose() {
  const row = byId(decodeURIComponent(location.hash.slice(1)));
  if (row?.parentElement !== body) return;
  const trials = await load();
  shown = trials[row.id];
  rows.forEach((other) => other.removeAttribute("aria-current"));
  row.setAttribute("aria-current", "true");
  byId("trial-name").textContent = shown.name;
  byId("trial-facts").replaceChildren(...shown.facts.map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
  byId("trial").hidden = false;
  byId("signals").hidden = !shown.signals;
  await draw("curves", { curves: shown.curves, levels: shown.levels });
  if (shown.signals) {
    byId("moment").max = shown.signals.moments.length - 1;
    byId("moment").value = 0;
    sayMoment();
    for (const direction of directions) {
      charts[direction].encoding.y.scale.domain = domain(direction);
      await draw(direction, { measured: points(direction), theory: shown.theory[direction] ?? [] });
    }
  }
  byId("trial").scrollIntoView();
  byId("trial").focus({ preventScroll: true });
}
byId("moment").addEventListener("input", () => {
  sayMoment();
  for (const direction of directions) views[direction].data("measured", points(direction)).runAsync();
});
addEventListener("hashchange", choose);
choose();
