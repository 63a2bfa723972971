// Shows the rows that the files of `rows/` hold. Every text of a row becomes a text node, never markup.
"use strict";
const about = JSON.parse(document.getElementById("about").textContent);
const KEYS = ["split", "ability", "family", "source"];
const kinds = about.kinds.map(([split, ability, family, source, first, rows]) => ({
  split, ability, family, source, first, rows,
}));
const form = document.querySelector("form");
const byId = (id) => document.getElementById(id);
const count = (number) => number.toLocaleString("en");
const files = new Map(); // number -> {promise, done}
let damaged = {};
let asked = 0; // the last one wins, where files come late

window.medmim = {
  rows(number, rows) {
    files.get(number).done(rows);
  },
  damaged(found) {
    damaged = found;
  },
};

// A file of rows; `fetch` reads nothing from the disk, a script does.
function load(number) {
  if (!files.has(number)) {
    const file = {};
    file.promise = new Promise((done, failed) => {
      file.done = done;
      const script = document.createElement("script");
      script.src = `rows/${number}.js`;
      script.onerror = () => {
        files.delete(number);
        failed(new Error("These questions are not written yet: reload the page, or show the data set again."));
      };
      document.head.append(script);
    });
    files.set(number, file);
  }
  return files.get(number).promise;
}

function wanted() {
  const given = new URLSearchParams(location.hash.slice(1));
  const filter = Object.fromEntries(KEYS.map((key) => [key, given.get(key) ?? ""]));
  return { filter, page: Math.max(1, Math.floor(Number(given.get("page"))) || 1) };
}

function address(filter, page) {
  const words = new URLSearchParams(Object.entries(filter).filter(([, value]) => value));
  if (page > 1) words.set("page", page);
  return `#${words}`;
}

const matches = (kind, filter, but) => KEYS.every((key) => key === but || !filter[key] || kind[key] === filter[key]);

// Numbers of the rows on a page: one of each kind, then the second of each, ...
function onPage(chosen, page) {
  const begin = (page - 1) * about.page;
  const found = [];
  let passed = 0;
  for (let rank = 0, left = chosen; left.length && found.length < about.page; rank++) {
    left = left.filter((kind) => kind.rows > rank);
    if (passed + left.length <= begin) passed += left.length;
    else
      for (const kind of left) {
        if (passed++ >= begin && found.length < about.page) found.push({ kind, rank, number: kind.first + rank });
      }
  }
  return found;
}

function drawFilters(filter) {
  for (const key of KEYS) {
    const counts = new Map();
    for (const kind of kinds)
      if (matches(kind, filter, key)) counts.set(kind[key], (counts.get(kind[key]) ?? 0) + kind.rows);
    if (filter[key] && !counts.has(filter[key])) counts.set(filter[key], 0);
    const options = [new Option("any", "")];
    for (const value of [...counts.keys()].sort()) {
      const words = key === "ability" ? (about.words[value] ?? value) : value;
      options.push(new Option(`${words} (${count(counts.get(value))})`, value));
    }
    form.elements[key].replaceChildren(...options);
    form.elements[key].value = filter[key];
  }
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function picture(file, at, row, rank) {
  const figure = element("figure");
  const of = `image ${at + 1} of ${row.p.length}`;
  const none = (why) => {
    const said = element("div", why, "none");
    figure.querySelector("img")?.replaceWith(said);
    return said;
  };
  if (file && damaged[file]) figure.append(none(`${of} does not decode: ${damaged[file]}`));
  else if (file) {
    const image = element("img");
    image.onerror = () => none(`${of} is not drawn${about.drawn && rank >= about.drawn ? "" : " yet: reload the page"}`);
    image.loading = "lazy";
    image.alt = row.from ? `${of}: ${row.from[at]}` : of;
    image.src = `images/${file}.jpg`;
    figure.append(image);
  } else figure.append(none(about.pictures ? `${of} is absent: its file was missing` : `${of}: no pixels`));
  figure.append(element("figcaption", at + 1));
  return figure;
}

function item(row, { kind, rank }) {
  const article = element("article", undefined, "item");
  if (row.p.length) {
    const pictures = element("div", undefined, "pictures");
    pictures.append(...row.p.map((file, at) => picture(file, at, row, rank)));
    article.append(pictures);
  }
  const text = element("div", undefined, "text");
  const asks = element("h2", row.q);
  asks.dir = "auto";
  text.append(asks);
  const options = element("ul", undefined, "opts");
  row.o.forEach((option, at) => {
    const right = row.g.includes(at);
    const line = element("li", `${about.letters[at]}: ${option}`, right ? "gold" : "");
    if (right) line.append(element("span", " (right)", "unseen"));
    options.append(line);
  });
  if (!row.o.length) options.append(element("li", row.a, "gold"));
  text.append(options);
  const words = about.words[kind.ability] ?? kind.ability;
  const where = `${kind.split} · ${words} · ${kind.family} · ${kind.source}${row.h ? " · held out" : ""}`;
  text.append(element("p", where, "kind soft small"));
  if (row.who) text.append(element("p", `${row.who.join(", ")}: ${row.from.join(", ")}`, "from soft small"));
  const id = element("p", row.id, "from soft small mono");
  text.append(id);
  article.append(text);
  return article;
}

async function show() {
  const ask = ++asked;
  const { filter, page } = wanted();
  drawFilters(filter);
  const chosen = kinds.filter((kind) => matches(kind, filter));
  const total = chosen.reduce((sum, kind) => sum + kind.rows, 0);
  const pages = Math.max(1, Math.ceil(total / about.page));
  const number = Math.min(page, pages);
  const places = onPage(chosen, number);
  byId("before").disabled = number <= 1;
  byId("after").disabled = number >= pages;
  byId("page").textContent = `page ${count(number)} of ${count(pages)}`;
  try {
    const rows = await Promise.all(
      places.map(async (place) => (await load(Math.floor(place.number / about.rows)))[place.number % about.rows]),
    );
    if (ask !== asked) return;
    byId("items").replaceChildren(...rows.map((row, at) => item(row, places[at])));
    const begin = (number - 1) * about.page;
    const all = count(kinds.reduce((sum, kind) => sum + kind.rows, 0));
    const below = total ? `, ${count(begin + 1)} to ${count(begin + rows.length)} below` : "";
    byId("found").textContent = `${count(total)} of ${all} questions${below}.`;
    if (!total) byId("items").append(element("p", "No question is like that. Take a filter away.", "empty"));
  } catch (error) {
    byId("found").textContent = error.message;
  }
}

function turn(by) {
  const { filter, page } = wanted();
  if (!byId(by < 0 ? "before" : "after").disabled) location.hash = address(filter, page + by);
}

form.addEventListener("change", () => {
  location.hash = address(Object.fromEntries(KEYS.map((key) => [key, form.elements[key].value])), 1);
});
form.addEventListener("reset", (event) => {
  event.preventDefault();
  location.hash = "#";
});
form.addEventListener("submit", (event) => event.preventDefault());
byId("before").addEventListener("click", () => turn(-1));
byId("after").addEventListener("click", () => turn(1));
addEventListener("keydown", (event) => {
  if (event.target.closest?.("select, input") || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "ArrowLeft") turn(-1);
  if (event.key === "ArrowRight") turn(1);
});
addEventListener("hashchange", () => {
  show();
  scrollTo({ top: 0 });
});
addEventListener("DOMContentLoaded", show); // once damaged.js is read
