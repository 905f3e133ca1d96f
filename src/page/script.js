// The page works without this script. With it, the page refreshes itself, times stay relative to now, arrow keys move
// through lists, and commands are copied with a button.
"use strict";

const REFRESH_MS = 5000;
// Longer than the server takes at the most.
const LONGEST_REFRESH_MS = 60000;

// The milliseconds by which the server's clock is ahead of the browser's.
let ahead = 0;

// Sets the clock by a page that has just arrived.
function setClock(page) {
  ahead = Date.parse(page.getElementById("clock").textContent) - Date.now();
}

// Texts of times, as the server writes them.
function relative(exact) {
  const seconds = Math.floor(Date.parse(exact) / 1000) - Math.floor((Date.now() + ahead) / 1000);
  const length = Math.abs(seconds);
  const text =
    length < 60 ? `${length} s`
    : length < 3600 ? `${Math.floor(length / 60)} min`
    : length < 86400 ? `${Math.floor(length / 3600)} h`
    : `${Math.floor(length / 86400)} d`;
  return seconds === 0 ? "now" : seconds > 0 ? `in ${text}` : `${text} ago`;
}

function tick() {
  for (const time of document.querySelectorAll("main time")) {
    const text = relative(time.dateTime);
    if (time.textContent !== text) time.textContent = text;
  }
}

// Replaces the parts of the page that change. A part with the focus or a selection in it keeps them. Returns whether there
// was such a part.
function replace(fresh) {
  let replaced = false;
  for (const part of document.querySelectorAll(".fresh")) {
    const next = fresh.getElementById(part.id);
    if (!next) continue;
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    const place = focused && [...part.querySelectorAll("a, button, [tabindex]")].indexOf(focused);
    const link = focused && focused.getAttribute("href");
    part.replaceWith(document.adoptNode(next));
    replaced = true;
    if (!focused) continue;
    const places = [...next.querySelectorAll("a, button, [tabindex]")];
    const same = (link && places.find((place) => place.getAttribute("href") === link)) || places[place];
    if (same) same.focus({ preventScroll: true });
  }
  return replaced;
}

let paused = false;
let refreshing = false;
let tag = null;
const refreshed = document.getElementById("refreshed");

function say(text) {
  if (refreshed && refreshed.textContent !== text) refreshed.textContent = text;
}

async function refresh() {
  const selection = document.getSelection();
  if (refreshing || paused || document.hidden || (selection && !selection.isCollapsed)) return;
  refreshing = true;
  try {
    const headers = { Accept: "text/html" };
    if (tag) headers["If-None-Match"] = tag;
    // The outcome of an action is shown once.
    const url = new URL(location.href);
    ["did", "rows", "more"].forEach((name) => url.searchParams.delete(name));
    const signal = AbortSignal.timeout(LONGEST_REFRESH_MS);
    const answer = await fetch(url, { headers, signal, cache: "no-store", redirect: "error" });
    if (answer.status === 304) return say("");
    if (!answer.ok) return say(`Not refreshed: ${answer.status}`);
    const text = await answer.text();
    if (paused) return;
    const page = new DOMParser().parseFromString(text, "text/html");
    // As from a proxy that asks for a password.
    if (!page.getElementById("clock") || !replace(page)) return say("Not refreshed: another page answered");
    tag = answer.headers.get("ETag");
    setClock(page);
    tick();
    say("");
  } catch {
    say("Not refreshed: no answer");
  } finally {
    refreshing = false;
  }
}

setClock(document);
if ("live" in document.body.dataset) {
  const pause = document.getElementById("pause");
  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Resume refresh" : "Pause refresh";
    if (!paused) refresh();
  });
  setInterval(refresh, REFRESH_MS);
  document.addEventListener("visibilitychange", refresh);
  // A page that the back button brings back is as it was left.
  addEventListener("pageshow", (event) => event.persisted && refresh());
}
setInterval(tick, 1000);

// Arrow keys move between the links of a table while one of them has the focus.
document.addEventListener("keydown", (event) => {
  const table = event.target instanceof Element && event.target.closest("table");
  if (!table || event.ctrlKey || event.metaKey || event.altKey) return;
  const links = [...table.querySelectorAll("tbody a")];
  const at = links.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, j: at + 1, ArrowUp: at - 1, k: at - 1, Home: 0, End: links.length - 1 }[event.key];
  if (at < 0 || to === undefined || !links[to]) return;
  event.preventDefault();
  links[to].focus();
});

for (const button of document.querySelectorAll("[data-copy]")) {
  // Only secure origins have a clipboard.
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
}
