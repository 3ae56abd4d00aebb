// What a page does beyond its links and forms: figures, keys, and showing a run as it goes on. Works without it, too.
"use strict";

// -- figures ------------------------------------------------------------------------------------------------------

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Where there is little room, long labels must not take it from what is drawn.
function narrowed(figure) {
  const { xaxis, yaxis } = figure.layout;
  if (yaxis?.ticktext) yaxis.ticktext = yaxis.ticktext.map((label) => (label.length > 18 ? `${label.slice(0, 17)}…` : label));
  if (xaxis?.title?.text) xaxis.title.text = xaxis.title.text.replace(" (", "<br>(");
  return figure;
}

function draw(place) {
  const told = JSON.parse(place.dataset.figure);
  const figure = place.clientWidth < 500 ? narrowed(told) : told;
  const axis = { color: ink("--soft"), gridcolor: ink("--line"), zerolinecolor: ink("--line"), automargin: true };
  const layout = {
    margin: { l: 50, r: 20, t: 30, b: 45 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink("--ink"), family: "system-ui, sans-serif", size: 13 },
    legend: { orientation: "h", y: 1.12 },
    hoverlabel: { bgcolor: ink("--raised"), font: { color: ink("--ink") } },
    ...figure.layout,
    xaxis: { ...axis, ...(figure.layout.xaxis || {}) },
    yaxis: { ...axis, ...(figure.layout.yaxis || {}) },
  };
  Plotly.react(place, figure.data, layout, { responsive: true, displayModeBar: false }).then(() => {
    place.on("plotly_click", (event) => {
      const to = event.points[0].customdata;
      if (typeof to === "string" && to.startsWith("/") && !to.startsWith("//")) window.location.assign(to);
    });
  });
}

// Plotly is large: it is fetched with the first figure, which may come while the page is open, and nothing waits for it.
let plotly = null;

function fetched() {
  plotly ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = "/static/plotly.js";
    script.addEventListener("load", done);
    script.addEventListener("error", failed);
    document.head.append(script);
  });
  return plotly;
}

function drawAll(within = document) {
  const places = within.querySelectorAll("[data-figure]");
  if (places.length) fetched().then(() => places.forEach(draw), () => {}); // without it, the tables are there
}

// -- keys ---------------------------------------------------------------------------------------------------------

function byKey(key) {
  return [...document.querySelectorAll("[data-key]")].find((each) => each.dataset.key === key);
}

function showKeys() {
  const dialog = document.getElementById("keys");
  const list = dialog.querySelector("dl");
  const told = [...document.querySelectorAll("[data-key]")].map((each) => [each.dataset.key, each.dataset.says || each.textContent.trim()]);
  if (document.querySelector("input[type=search]")) told.push(["/", "Search"]);
  list.replaceChildren(
    ...[...told, ["?", "These keys"]].flatMap(([key, says]) => {
      const term = document.createElement("dt");
      const sign = term.appendChild(document.createElement("kbd"));
      sign.textContent = key;
      const meaning = document.createElement("dd");
      meaning.textContent = says;
      return [term, meaning];
    }),
  );
  dialog.showModal();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog")) return;
  const search = document.querySelector("input[type=search]");
  const found = byKey(event.key);
  if (event.key === "?") showKeys();
  else if (event.key === "/" && search) search.focus();
  else if (found) found.click();
  else return;
  event.preventDefault();
});

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-keys]")) showKeys();
});

// -- live ---------------------------------------------------------------------------------------------------------

let asking = false;
let again = false;

async function refresh() {
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  try {
    const answer = await fetch(window.location.href, { headers: { accept: "text/html" } });
    if (answer.ok) {
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of document.querySelectorAll("[data-live]")) {
        const now = fresh.getElementById(old.id);
        // A part in which the reader is at work stays as it is.
        if (now && !old.contains(document.activeElement)) replace(old, now);
      }
      document.getElementById("live-state").textContent = `as of ${new Date().toLocaleTimeString()}`;
    }
  } catch {
    // The server has ended; the event source says so.
  } finally {
    asking = false;
    if (again) {
      again = false;
      setTimeout(refresh, 1000);
    }
  }
}

function replace(old, now) {
  if (old.dataset.was === undefined ? old.innerHTML === now.innerHTML : old.dataset.was === now.innerHTML) return;
  const open = [...old.querySelectorAll("details[open][id]")].map((each) => each.id);
  const was = now.innerHTML;
  old.replaceChildren(...now.childNodes);
  old.dataset.was = was;
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  drawAll(old);
}

function listen(address) {
  const state = document.getElementById("live-state");
  const source = new EventSource(address);
  source.addEventListener("changed", refresh);
  source.addEventListener("error", () => (state.textContent = "not connected"));
  source.addEventListener("open", () => (state.textContent = "live"));
  window.addEventListener("pagehide", () => source.close());
}

for (const each of document.querySelectorAll("[data-live]")) each.dataset.was = each.innerHTML;
drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll());
if (document.body.dataset.changes) listen(document.body.dataset.changes);
