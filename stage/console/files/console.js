// Draws the live parts of a page anew when the stage says that something has changed.
// Without it a page shows the instant at which it was loaded, and everything else works.
"use strict";

const root = document.documentElement.dataset.root;

async function redraw() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(part.id);
    if (next && !isUsed(part)) part.replaceWith(next);
  }
}

// A person who reads, moves or writes there is not disturbed.
function isUsed(part) {
  const typed = (field) => field.value !== field.defaultValue;
  return part.contains(document.activeElement) || part.querySelector("details[open]") !== null
    || [...part.querySelectorAll("input")].some(typed);
}

const live = document.querySelector("[data-live]");
if (live) {
  const saga = live.dataset.saga;
  const about = saga ? `?${new URLSearchParams({ saga })}` : "";
  const events = new EventSource(`${root}/live${about}`);
  let drawn = "";
  events.addEventListener("changed", (event) => {
    const first = drawn === "";
    drawn = event.lastEventId;
    if (!first) redraw();
  });
  addEventListener("pagehide", () => events.close());
}
