// Draw the diagrams, from the site's own copy of mermaid; where that can't be, their text stays readable.
const home = new URL(".", document.currentScript.src);

async function draw(diagrams) {
  await new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = new URL("web/mermaid/dist/mermaid.min.js", home);
    script.onload = done;
    script.onerror = failed;
    document.head.append(script);
  });
  const dark = document.documentElement.dataset.theme === "dark";
  window.mermaid.initialize({ startOnLoad: false, theme: dark ? "dark" : "neutral" });
  await window.mermaid.run({ nodes: diagrams });
}

const diagrams = document.querySelectorAll("pre.mermaid");
if (diagrams.length) draw(diagrams);

// What scrolls sideways must be reachable by keyboard.
function reachable() {
  for (const box of document.querySelectorAll(".bd-article pre, .bd-article table, .mermaid-figure")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
}
reachable();
window.addEventListener("resize", reachable);

// What the theme and MyST-NB leave without a name that a screen reader can use, or with one that is not what is seen.
for (const folded of document.querySelectorAll('summary[aria-label="Toggle hidden content"]')) folded.removeAttribute("aria-label");
for (const search of document.querySelectorAll(".search-button-field")) search.removeAttribute("aria-label");
for (const arrow of document.querySelectorAll(".bd-sidebar summary:not([aria-label])")) {
  const page = arrow.closest("li")?.querySelector("a");
  if (!arrow.textContent.trim()) arrow.setAttribute("aria-label", `Pages of ${page ? page.textContent.trim() : "this part"}`);
}
