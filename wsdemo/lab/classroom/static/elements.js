// Elements: how are names, shapes and colours put into a page?
//
// Text goes into a page only by `h` and `set`, as text: names and messages are written by others,
// and are never read as HTML.

const SVG = "http://www.w3.org/2000/svg";

// A gateway has a colour and a shape of its own, those of the figures (palette of Okabe and Ito):
// nothing is told by colour alone. `dark` is the same colour, dark enough for white words on it.
const ROLES = {
  "gateway-01": { colour: "#0072B2", dark: "#005a8e", shape: "circle" },
  "gateway-02": { colour: "#009E73", dark: "#00694d", shape: "square" },
  "gateway-03": { colour: "#CC79A7", dark: "#9a4a77", shape: "triangle" },
};
const MORE_ROLES = [
  { colour: "#B8A800", dark: "#6b6200", shape: "down" },
  { colour: "#56B4E9", dark: "#1a6a9a", shape: "plus" },
  { colour: "#E69F00", dark: "#8a5a00", shape: "pentagon" },
  { colour: "#6E6E6E", dark: "#4d4d4d", shape: "hexagon" },
];
const SHAPES = {
  circle: "M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 1 0 0-13z",
  square: "M2 2h12v12H2z",
  triangle: "M8 1.2 15 14H1z",
  down: "M8 14.8 1 2h14z",
  plus: "M5.5 1.5h5v4h4v5h-4v4h-5v-4h-4v-5h4z",
  pentagon: "M8 1 15 6.2 12.4 14.5H3.6L1 6.2z",
  hexagon: "M4.5 2h7l3.5 6-3.5 6h-7L1 8z",
  shield: "M8 1l6 2v5c0 4-3 6-6 7-3-1-6-3-6-7V3z",
};

// The colours and the shape of a gateway; `names` are all gateways that there are.
export function role(name, names = []) {
  if (ROLES[name]) return ROLES[name];
  const others = names.filter((other) => !ROLES[other]).sort();
  return MORE_ROLES[Math.max(0, others.indexOf(name)) % MORE_ROLES.length];
}

// An element: its tag, its attributes (`onclick` and the like are listeners), and what is in it.
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

// An element of a drawing.
export function draw(tag, attributes = {}) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// A text that has not changed is not written again: a browser would lay the page out anew.
export function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function shape(name, size, paint) {
  const svg = draw("svg", { viewBox: "0 0 16 16", width: size, height: size, "aria-hidden": "true" });
  svg.append(draw("path", { d: SHAPES[name], ...paint }));
  return svg;
}

export function glyph(name, names, size = 14, colour = "") {
  const { colour: own, shape: outline } = role(name, names);
  return shape(outline, size, { fill: colour || own });
}

export function shield(size = 15) {
  return shape("shield", size, { fill: "none", stroke: "#fff", "stroke-width": 2 });
}

export function plural(n, one, many = `${one}s`) {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}

// "gateway-02" is long: where there is little room it is "02".
export function short(gateway) {
  return gateway.replace(/^gateway-/, "");
}
