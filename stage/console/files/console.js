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
    // A person who reads or moves there with the keyboard is not disturbed.
    if (next && !part.contains(document.activeElement)) part.replaceWith(next);
  }
}

if (document.querySelector("[data-live]")) {
  const events = new EventSource(`${root}/live`);
  let drawn = "";
  events.addEventListener("changed", (event) => {
    const first = drawn === "";
    drawn = event.lastEventId;
    if (!first) redraw();
  });
  addEventListener("pagehide", () => events.close());
}
