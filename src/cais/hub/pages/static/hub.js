// What the pages do beyond links and forms: search as one types, copying, colours. Without it everything else works.
"use strict";

// Copying

for (const button of document.querySelectorAll("button.copy")) {
  button.hidden = !navigator.clipboard && !document.execCommand;
  const said = button.textContent;
  let timer = 0;
  button.addEventListener("click", async () => {
    const done = await copy(button.dataset.copy);
    button.textContent = done ? "Copied" : "Failed";
    button.classList.toggle("done", done);
    clearTimeout(timer);
    timer = setTimeout(() => { button.textContent = said; button.classList.remove("done"); }, 1500);
  });
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // plain HTTP has no clipboard but this
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "hidden";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

// Colours

const theme = document.getElementById("theme");
const THEMES = ["auto", "light", "dark"];
const root = document.documentElement;

function showTheme() {
  const now = root.dataset.theme || "auto";
  theme.textContent = { auto: "◐", light: "☀", dark: "☾" }[now];
  theme.title = `Colours: ${{ auto: "as the system's", light: "light", dark: "dark" }[now]}`;
  theme.setAttribute("aria-label", theme.title);
}

if (theme) {
  theme.hidden = false;
  showTheme();
  theme.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(root.dataset.theme || "auto") + 1) % THEMES.length];
    if (next === "auto") delete root.dataset.theme; else root.dataset.theme = next;
    try { localStorage.setItem("theme", next); } catch { /* for this page only */ }
    showTheme();
  });
}

// Search: "/" leads to the field, arrows walk through what is found

const field = document.querySelector("input.search");
const list = field && field.dataset.live ? document.getElementById(field.dataset.live) : null;
const spoken = document.getElementById("status");
const DELAY = 120;

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || !field) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  event.preventDefault();
  field.focus();
  field.select();
});

if (list) {
  const before = list.innerHTML;
  let timer = 0;
  let asking = null;
  let shown = location.pathname === "/" ? "" : field.value.trim();

  const search = async () => {
    const text = field.value.trim();
    if (text === shown) return;
    shown = text;
    if (asking) asking.abort();
    asking = new AbortController();
    const url = `/search?q=${encodeURIComponent(text)}`;
    if (!text && location.pathname === "/") {
      list.innerHTML = before;
      history.replaceState(null, "", "/");
      if (spoken) spoken.textContent = "";
      return;
    }
    try {
      const reply = await fetch(`${url}&partial=1`, { signal: asking.signal, credentials: "same-origin" });
      if (!reply.ok) return;
      list.innerHTML = await reply.text();
      if (location.pathname === "/search") history.replaceState(null, "", url);
      const count = list.querySelector(".found")?.dataset.count || "0";
      if (spoken) spoken.textContent = count === "1" ? "1 result" : `${count} results`;
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
  };

  field.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, DELAY); });
  if (field.value.trim() && location.pathname === "/") search();

  document.addEventListener("keydown", (event) => {
    const lines = [...list.querySelectorAll("a.line, a.card")];
    const at = lines.indexOf(document.activeElement);
    if (event.key === "ArrowDown" && (document.activeElement === field || at >= 0)) {
      event.preventDefault();
      (lines[at + 1] || lines[at] || field).focus();
    } else if (event.key === "ArrowUp" && at >= 0) {
      event.preventDefault();
      (lines[at - 1] || field).focus();
    } else if (event.key === "Escape" && at >= 0) {
      field.focus();
    }
  });
}
