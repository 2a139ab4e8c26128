// Keeps a page up to date: hears of a change through server-sent events, asks
// for the page anew, and puts the new content in place of the old. Everything
// shown is made by the server; nothing is built from data here.
"use strict";

const body = document.body;
const live = document.getElementById("live");
const mine = body.dataset.machine;
let pending = 0, running = false, again = false;

// span and ago say how long ago, as the server does.
function span(s) {
  if (s < 60) return Math.floor(s) + " s";
  if (s < 3600) return Math.floor(s / 60) + " min";
  if (s < 172800) return Math.floor(s / 3600) + " h";
  return Math.floor(s / 86400) + " days";
}

function ago(at) {
  const s = (Date.now() - at) / 1000;
  if (s < -1) return "in " + span(-s);
  return s < 1 ? "now" : span(s) + " ago";
}

function tick() {
  for (const t of document.querySelectorAll("time")) {
    const rel = t.querySelector(".rel"), text = ago(Date.parse(t.dateTime));
    if (rel && rel.textContent !== text) rel.textContent = text;
  }
}

const keys = (root) => new Set(Array.from(root.querySelectorAll("[data-key]"), (e) => e.dataset.key));

// replace puts the fetched page in place and keeps what a person was doing:
// focus, half-written text, opened details, the place on the page.
function replace(next) {
  const main = document.getElementById("main"), fresh = next.getElementById("main");
  if (!fresh) { location.reload(); return; }
  const focus = document.activeElement && main.contains(document.activeElement) ? document.activeElement.id : "";
  const typed = Array.from(main.querySelectorAll("input[id]:not([type=hidden])"), (e) => [e.id, e.value, e.selectionStart]);
  const open = new Set(Array.from(main.querySelectorAll("details[open]"), (e) => e.closest("[data-key]")?.dataset.key));
  const before = keys(main);
  main.replaceChildren(...fresh.childNodes);
  for (const [id, value, at] of typed) {
    const e = document.getElementById(id);
    if (e && value) { e.value = value; if (id === focus) e.setSelectionRange?.(at, at); }
  }
  for (const e of main.querySelectorAll("[data-key]")) {
    if (!before.has(e.dataset.key)) e.classList.add("fresh");
    if (open.has(e.dataset.key)) e.querySelector("details")?.setAttribute("open", "");
  }
  if (focus) document.getElementById(focus)?.focus({ preventScroll: true });
  for (const selector of [".bar nav"]) {
    const a = document.querySelector(selector), b = next.querySelector(selector);
    if (a && b && a.innerHTML !== b.innerHTML) a.replaceWith(b);
  }
  document.title = next.title;
  tick();
}

async function refresh() {
  if (running) { again = true; return; }
  running = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    if (answer.redirected && new URL(answer.url).pathname === "/login") { location.reload(); return; }
    replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch (e) {
    // The stream says when the verifier is back.
  } finally {
    running = false;
    if (again) { again = false; soon(); }
  }
}

// soon gathers a burst of changes into one fetch.
function soon() {
  clearTimeout(pending);
  pending = setTimeout(refresh, 120);
}

function concerns(notice) {
  return !mine || !notice.machine || notice.machine === mine;
}

function listen() {
  const stream = new EventSource("/v1/stream");
  let lost = false;
  live.hidden = false;
  stream.onopen = () => {
    live.textContent = "Live";
    live.classList.remove("off");
    if (lost) soon(); // what happened meanwhile was not heard
    lost = false;
  };
  stream.onerror = () => {
    lost = true;
    live.textContent = "Not connected, trying again";
    live.classList.add("off");
  };
  for (const kind of ["machine", "scan", "event", "review", "moment", "appraisal"]) {
    stream.addEventListener(kind, (e) => { if (concerns(JSON.parse(e.data))) soon(); });
  }
}

if ("live" in body.dataset) {
  listen();
  tick();
  setInterval(tick, 1000);
}
