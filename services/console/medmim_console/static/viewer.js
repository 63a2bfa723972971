// Zoom, pan, level and window of the images of an item. Without it, the images stand side by side.
"use strict";

const WHOLE = { scale: 1, x: 0, y: 0, level: 128, width: 256 }; // x and y in shares of the frame; 8-bit grey values
const LARGEST = 16;
const SVG = "http://www.w3.org/2000/svg";

for (const stage of document.querySelectorAll("[data-stage]")) {
  const views = [...stage.querySelectorAll("[data-frame]")].map(view_of);
  if (views.length) start(stage, views);
}

function view_of(frame, number) {
  const filter = document.createElementNS(SVG, "filter");
  const transfer = document.createElementNS(SVG, "feComponentTransfer");
  const lines = ["feFuncR", "feFuncG", "feFuncB"].map((name) => document.createElementNS(SVG, name));
  filter.id = `window-${number}`;
  filter.setAttribute("color-interpolation-filters", "sRGB"); // of the values as stored, not of linear light
  for (const line of lines) line.setAttribute("type", "linear");
  transfer.append(...lines);
  filter.append(transfer);
  return { frame, image: frame.querySelector("img"), filter, lines, state: { ...WHOLE } };
}

function start(stage, views) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "unseen");
  svg.setAttribute("aria-hidden", "true");
  svg.append(...views.map((view) => view.filter));
  stage.append(svg);
  const tools = stage.querySelector(".tools");
  const sliders = ["level", "width"].map((name) => tools.querySelector(`[data-set=${name}]`));
  const together = tools.querySelector("[data-set=together]");
  let current = views[0];

  // Changes one view, or all of them alike.
  function change(view, make) {
    current = view;
    const made = settled(make(view.state));
    for (const one of together.checked ? views : [view]) {
      one.state = { ...made };
      draw(one);
    }
    for (const slider of sliders) {
      slider.value = view.state[slider.dataset.set];
      slider.nextElementSibling.value = Math.round(view.state[slider.dataset.set]);
    }
  }

  tools.addEventListener("click", (event) => {
    const what = event.target.dataset.do;
    if (what === "in") change(current, (state) => zoomed(state, 1.25));
    if (what === "out") change(current, (state) => zoomed(state, 0.8));
    if (what === "reset") change(current, () => WHOLE);
  });
  for (const slider of sliders)
    slider.addEventListener("input", () =>
      change(current, (state) => ({ ...state, [slider.dataset.set]: Number(slider.value) })),
    );
  together.addEventListener("change", () => change(current, (state) => state));
  for (const view of views) listen(view, change, (chosen) => (current = chosen));
  tools.hidden = false;
  stage.querySelector(".hint").hidden = false;
  if (views.length === 1) together.parentElement.hidden = true;
}

function listen(view, change, choose) {
  const { frame } = view;
  const touching = new Map();
  frame.tabIndex = 0;
  frame.setAttribute("role", "group");
  frame.setAttribute("aria-label", `${frame.dataset.label}; plus and minus zoom, arrows move, 0 resets`);
  frame.addEventListener("focus", () => {
    choose(view);
    change(view, (state) => state);
  });

  frame.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const make = {
      "+": (state) => zoomed(state, 1.25),
      "=": (state) => zoomed(state, 1.25),
      "-": (state) => zoomed(state, 0.8),
      0: () => WHOLE,
      ArrowLeft: (state) => ({ ...state, x: state.x + 0.1 }),
      ArrowRight: (state) => ({ ...state, x: state.x - 0.1 }),
      ArrowUp: (state) => ({ ...state, y: state.y + 0.1 }),
      ArrowDown: (state) => ({ ...state, y: state.y - 0.1 }),
      "[": (state) => ({ ...state, level: state.level - 8 }),
      "]": (state) => ({ ...state, level: state.level + 8 }),
      "<": (state) => ({ ...state, width: state.width - 8 }),
      ">": (state) => ({ ...state, width: state.width + 8 }),
    }[event.key];
    if (!make || (event.key.startsWith("Arrow") && view.state.scale === 1)) return; // arrows scroll the page then
    event.preventDefault();
    change(view, make);
  });

  // The wheel scrolls the page until an image is chosen.
  frame.addEventListener(
    "wheel",
    (event) => {
      if (document.activeElement !== frame && !event.ctrlKey) return;
      event.preventDefault();
      const factor = Math.exp(-event.deltaY * (event.deltaMode ? 0.03 : 0.0015));
      change(view, (state) => zoomed(state, factor, ...at(frame, event)));
    },
    { passive: false },
  );

  frame.addEventListener("pointerdown", (event) => {
    touching.set(event.pointerId, event);
    frame.setPointerCapture(event.pointerId);
  });
  for (const name of ["pointerup", "pointercancel"])
    frame.addEventListener(name, (event) => touching.delete(event.pointerId));
  frame.addEventListener("pointermove", (event) => {
    const before = touching.get(event.pointerId);
    if (!before) return;
    const other = [...touching.values()].find((one) => one.pointerId !== event.pointerId);
    touching.set(event.pointerId, event);
    const { width, height } = frame.getBoundingClientRect();
    const [x, y] = [(event.clientX - before.clientX) / width, (event.clientY - before.clientY) / height];
    if (other) change(view, (state) => zoomed(state, apart(event, other) / apart(before, other), ...at(frame, other)));
    else if (event.shiftKey)
      change(view, (state) => ({ ...state, level: state.level - y * 256, width: state.width + x * 256 }));
    else change(view, (state) => ({ ...state, x: state.x + x, y: state.y + y }));
  });
}

function apart(one, other) {
  return Math.max(1, Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY));
}

// Where an event is in a frame, in shares of it, from the middle.
function at(frame, event) {
  const { left, top, width, height } = frame.getBoundingClientRect();
  return [(event.clientX - left) / width - 0.5, (event.clientY - top) / height - 0.5];
}

// Zoomed around a point, which stays where it is.
function zoomed(state, factor, x = 0, y = 0) {
  const scale = Math.min(LARGEST, Math.max(1, state.scale * factor));
  const grown = scale / state.scale;
  return { ...state, scale, x: x - (x - state.x) * grown, y: y - (y - state.y) * grown };
}

// Within what makes sense: an image stays in its frame.
function settled(state) {
  const room = (state.scale - 1) / 2;
  const within = (value, low, high) => Math.min(high, Math.max(low, value));
  return {
    scale: state.scale,
    x: within(state.x, -room, room),
    y: within(state.y, -room, room),
    level: within(state.level, 0, 255),
    width: within(state.width, 1, 512),
  };
}

function draw({ frame, image, filter, lines, state }) {
  image.style.transform = `translate(${100 * state.x}%, ${100 * state.y}%) scale(${state.scale})`;
  frame.classList.toggle("zoomed", state.scale > 1);
  const plain = state.level === WHOLE.level && state.width === WHOLE.width;
  image.style.filter = plain ? "none" : `url(#${filter.id})`;
  for (const line of lines) {
    line.setAttribute("slope", 256 / state.width);
    line.setAttribute("intercept", 0.5 - state.level / state.width);
  }
}
