"use strict";
// The search. Pages opened as files may not fetch anything, so its index is a script, read when it is first needed.
const most = 30, around = 70;                               // results; characters on each side of a word found
const box = document.querySelector("#search"), found = document.querySelector("#found");
const contents = document.querySelector("#contents"), side = document.querySelector("#side");
const menu = document.querySelector("#menu");
let asked = false;

function search() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  if (!asked) {
    asked = true;
    document.head.append(Object.assign(document.createElement("script"), {src: "search.js", onload: search}));
  }
  if (typeof SECTIONS === "undefined") return;
  contents.hidden = words.length > 0;
  found.hidden = !words.length;
  const results = SECTIONS.map(section => [score(section, words), section]).filter(([points]) => points);
  results.sort((a, b) => b[0] - a[0]);                    // stable: equal ones stay in the order of reading
  found.replaceChildren(...results.slice(0, most).map(([, section]) => result(section, words)));
  if (words.length && !results.length) found.textContent = "No section has all these words.";
}

// 0 unless the section has every word; more where a heading has it, and whole.
function score([, title, , heading, text], words) {
  let points = 0;
  for (const word of words) {
    const here = text.toLowerCase().split(word).length - 1;
    const above = [heading, title].map(name => ` ${name} `.toLowerCase()).map(
      name => name.includes(` ${word} `) ? 40 : name.includes(word) ? 10 : 0);
    if (!here && !above[0] && !above[1]) return 0;
    points += Math.min(here, 9) + 2 * above[0] + above[1];
  }
  return points;
}

function result([page, title, anchor, heading, text], words) {
  const link = Object.assign(document.createElement("a"), {href: `${page}#${anchor}`, onclick: close});
  const name = document.createElement("b");
  name.textContent = title === heading ? title : `${title}: ${heading}`;
  const at = Math.max(0, text.toLowerCase().indexOf(words[0]) - around);
  const piece = document.createElement("small");
  piece.append((at ? "\u2026" : "") + text.slice(at, at + 2 * around) + "\u2026");
  words.forEach(word => highlight(piece, word));
  link.append(name, piece);
  const item = document.createElement("li");
  item.append(link);
  return item;
}

function highlight(node, word) {
  for (const text of [...node.childNodes].filter(child => child.nodeType === Node.TEXT_NODE)) {
    const at = text.data.toLowerCase().indexOf(word);
    if (at < 0) continue;
    const hit = text.splitText(at);
    hit.splitText(word.length);
    const mark = document.createElement("mark");
    hit.replaceWith(mark);
    mark.append(hit);
  }
}

function close() {
  side.classList.remove("open");
  menu.setAttribute("aria-expanded", false);
}

box.addEventListener("input", search);
menu.addEventListener("click", () => menu.setAttribute("aria-expanded", side.classList.toggle("open")));
contents.addEventListener("click", close);
document.addEventListener("keydown", event => {
  if (event.key === "/" && document.activeElement !== box) {
    event.preventDefault();
    box.focus();
  } else if (event.key === "Escape") {
    box.value = "";
    search();
    close();
  }
});
const here = contents.querySelector("[aria-current]");
if (here) side.scrollTop = here.offsetTop - side.clientHeight / 3;
