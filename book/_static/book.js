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
