// Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
// Runs inside a report under test: uses it as a reader does and posts what it sees.
"use strict";
window.problems = [];
window.onerror = (message) => problems.push(String(message));
window.onunhandledrejection = (event) => problems.push(String(event.reason));
console.error = (...parts) => problems.push(parts.join(" "));
window.alert = (text) => problems.push(`alert ${text}`);

const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const names = () => all("#cohort tbody tr").filter((row) => !row.hidden).map((row) => row.cells[0].textContent);
const head = (text) => all("#cohort th").find((cell) => cell.textContent === text);

async function wait(ready) {
  for (let i = 0; i < 600 && !ready(); i++) await new Promise((resolve) => setTimeout(resolve, 50));
}

function change(element, property, value, type) {
  element[property] = value;
  element.dispatchEvent(new Event(type));
}

window.addEventListener("load", async () => {
  if (window !== window.top) return; // the report within the report, as wide as a phone
  const seen = { first: names() };
  head("Score").querySelector("button").click();
  seen.ascending = names();
  seen.mark = head("Score").getAttribute("aria-sort");
  head("p-value").querySelector("button").click();
  seen.byP = names();
  seen.cards = all(".card h3").map((name) => name.textContent);
  change(document.getElementById("filter"), "value", "vol", "input");
  seen.filtered = names();
  change(document.getElementById("filter"), "value", "", "input");

  const viewers = all(".viewer");
  seen.closed = viewers.map((viewer) => viewer.dataset.state ?? "closed");
  for (const details of all("details")) details.open = true;
  await wait(() => viewers.every((viewer) => viewer.dataset.state === "ready"));
  seen.open = viewers.map((viewer) => viewer.dataset.state);
  seen.canvases = all(".card").map((card) => all("canvas", card).length);

  const card = all(".card").find((one) => one.querySelector("h3").textContent === "volume");
  const canvas = card.querySelector("canvas");
  const pixels = () => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  seen.readout = card.querySelector("output").textContent;
  seen.states = [];
  const note = () => seen.states.push(pixels().reduce((sum, value, i) => (sum + value * ((i % 997) + 1)) % 1e9, 0));
  note();
  change(card.querySelector("[name=mask]"), "checked", false, "change"), note();
  change(card.querySelector("[name=truth]"), "checked", false, "change"), note();
  change(card.querySelector("[name=opacity]"), "value", 0, "input"), note();
  change(card.querySelector("figure input"), "value", 4, "input"), note();
  canvas.setPointerCapture = () => {}; // there is no real pointer
  const box = canvas.getBoundingClientRect();
  const point = { clientX: box.left + box.width / 3, clientY: box.top + box.height / 4, pointerId: 1 };
  canvas.dispatchEvent(new PointerEvent("pointerdown", point)), note();
  seen.moved = card.querySelector("output").textContent;
  change(card.querySelector("[name=cross]"), "checked", false, "change"), note();

  seen.twins = all(".card").map((one) => !one.querySelector("[name=healthy]").closest("label").hidden);
  change(card.querySelector("[name=healthy]"), "checked", true, "change"), note();

  seen.places = [];
  for (const button of all("[data-region]", card)) {
    const before = card.querySelector("output").textContent;
    button.click();
    await wait(() => card.querySelector("output").textContent !== before);
    seen.places.push(card.querySelector("output").textContent);
  }

  seen.scripts = document.scripts.length;
  seen.images = all("img").every((image) => image.complete && image.naturalWidth > 0);
  seen.wide = document.documentElement.scrollWidth <= window.innerWidth;

  const phone = document.createElement("iframe");
  phone.style.width = "390px";
  phone.src = location.href;
  document.body.append(phone);
  await new Promise((resolve) => (phone.onload = resolve));
  const [page, style] = [phone.contentDocument, phone.contentWindow.getComputedStyle];
  seen.phone = {
    fits: page.documentElement.scrollWidth <= 390,
    columns: all(".thumbnails", page).map((panels) => style(panels).gridTemplateColumns.split(" ").length),
    first: style(page.querySelector("#cohort td")).position,
  };
  seen.problems = window.problems;
  await fetch("/seen", { method: "POST", body: JSON.stringify(seen) });
});
