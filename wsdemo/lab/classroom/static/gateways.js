// The gateways: a box for each, and in it a chip for each student whom its registry has. The bar of
// a chip is the lease, as Redis says. Simulated users are small squares. Who has no connection is in
// the row above.
import { agreement } from "./model.js";
import { gatewayButtons } from "./controls.js";
import { glyph, h, plural, role, set, short } from "./elements.js";

const STATUS_WORDS = { up: "", down: "not started", unready: "not ready" };
const FALSE_COLOUR = "#D55E00"; // For simulated users of whom Redis says something else.
const UNKNOWN_COLOUR = "#98a2ae";

export class Gateways {
  constructor({ choose, act }) {
    this._choose = choose;
    this._act = act;
    this._boxes = new Map(); // Gateway → {box, state, count, chips, canvas, drawn}.
    this._chips = new Map(); // "user gateway" → {element, ...}.
    this._nowhereChips = h("div", { class: "chips" });
    this._nowhereCrowd = h("span", { class: "crowd-away" });
    this.nowhere = h("section", { class: "nowhere", "aria-label": "Connected to nobody" },
      h("h2", {}, "connected to nobody"), this._nowhereChips, this._nowhereCrowd, legend());
    this.element = h("div", { class: "gateways" });
  }

  boxOf(gateway) { return this._boxes.get(gateway)?.box; }
  headOf(gateway) { return this._boxes.get(gateway)?.box.querySelector("header"); }
  chipOf(user, gateway) { return this._chips.get(`${user}\n${gateway}`)?.element; }
  chipsOf(user) { return [...this._chips.values()].filter((chip) => chip.user === user).map(({ element }) => element); }

  // One more box for each gateway that is new.
  add(gateways, names) {
    for (const { name, freezable } of gateways) {
      if (this._boxes.has(name)) continue;
      const state = h("span", { class: "state" }), count = h("span", { class: "count" });
      const chips = h("div", { class: "chips" }), canvas = h("canvas", { class: "crowd", height: 0, role: "img" });
      const box = h("section", { class: "gateway", "aria-label": name },
        h("header", {}, glyph(name, names, 18), h("h2", {}, name), state, count), chips, canvas,
        gatewayButtons(name, freezable, this._act));
      box.style.setProperty("--role", role(name, names).colour);
      this.element.append(box);
      this._boxes.set(name, { box, state, count, chips, canvas, drawn: "" });
    }
  }

  // Returns how many simulated users there are, and of how many Redis says what is so: {all, right, wrong, old}.
  // An `old` connection is one too many: Redis names the gateway of another one.
  draw(scene) {
    const { state, people, at } = scene;
    const wanted = new Set();
    for (const [user, { name }] of people) {
      for (const gateway of at.get(user) ?? [""]) {
        const chip = this._chip(user, gateway);
        if (!chip) continue;
        wanted.add(`${user}\n${gateway}`);
        this._drawChip(chip, name, gateway, scene);
      }
    }
    for (const [key, { element }] of this._chips) if (!wanted.has(key)) { element.remove(); this._chips.delete(key); }
    const right = new Set(), wrong = [];
    for (const [gateway, box] of this._boxes) {
      for (const [user, how] of this._drawBox(gateway, box, scene)) {
        if (how === "ok") right.add(user); else wrong.push(user);
      }
    }
    const away = scene.crowdAway.length;
    set(this._nowhereCrowd, away ? `and ${away} simulated` : "");
    this.nowhere.classList.toggle("empty", !this._nowhereChips.childElementCount && !away);
    const old = wrong.filter((user) => right.has(user)).length;
    return { all: scene.crowdSize, right: right.size, wrong: scene.crowdSize - right.size, old };
  }

  // Returns what Redis says of each simulated user there.
  _drawBox(gateway, box, { state, crowdAt, countAt, names }) {
    const status = state.gateways[gateway] ?? "down", all = countAt.get(gateway) ?? 0;
    const simulated = (crowdAt.get(gateway) ?? []).sort(), named = all - simulated.length;
    box.box.dataset.status = status;
    box.box.dataset.crowding = named > 24 ? 3 : named > 15 ? 2 : named > 8 ? 1 : 0;
    set(box.state, STATUS_WORDS[status] ?? status);
    set(box.count, plural(all, "user"));
    const how = simulated.map((user) => agreement(state, user, gateway));
    // Drawn anew only when somebody came, left, or is another's.
    const key = `${how.map((each) => each[0]).join("")} ${box.box.clientWidth}`;
    if (box.drawn !== key) drawCrowd(box.canvas, how, box.box.clientWidth - 20, role(gateway, names).colour);
    box.drawn = key;
    return simulated.map((user, i) => [user, how[i]]);
  }

  _chip(user, gateway) {
    const key = `${user}\n${gateway}`, home = gateway ? this._boxes.get(gateway)?.chips : this._nowhereChips;
    if (!home) return null;
    if (!this._chips.has(key)) {
      const name = h("b"), bar = h("i"), told = h("span", { class: "told" });
      const element = h("button", { type: "button", class: "chip", onclick: () => this._choose(user) },
        name, h("span", { class: "under" }, h("span", { class: "ttl" }, bar), told));
      home.append(element);
      this._chips.set(key, { user, element, name, bar, told, how: "", part: "" });
    }
    return this._chips.get(key);
  }

  _drawChip(chip, name, gateway, { state, names, lab, drawBars, selected }) {
    const how = agreement(state, chip.user, gateway), belief = how === "unknown" ? null : state.belief[chip.user];
    const says = belief && how !== "nobody" ? belief[0] : "";
    set(chip.name, name);
    chip.element.classList.toggle("chosen", chip.user === selected);
    if (drawBars) drawBar(chip, belief && says ? (belief[2] - state.t) / lab.ttl : 0);
    if (chip.how === how + says) return;
    chip.how = how + says;
    chip.element.dataset.how = gateway || how === "unknown" ? how : says ? "ghost" : "away";
    chip.bar.style.background = says ? role(says, names).colour : "";
    const nobody = how === "nobody" && gateway ? ["nobody"] : [];
    const told = how === "elsewhere" ? [glyph(says, names, 11), ` ${short(says)}`] : nobody;
    chip.told.replaceChildren(...(told.length ? [h("span", {}, "Redis: "), ...told] : []));
    chip.element.setAttribute("aria-label", `${name}, ${gateway ? `connected to ${gateway}` : "not connected"}; `
      + (how === "unknown" ? "Redis cannot be asked" : `Redis says ${says || "nobody"}`));
  }
}

// A lease that runs down: `part` of it is left.
export function drawBar(of, part) {
  const shown = Math.max(0, Math.min(1, part)).toFixed(2);
  if (of.part !== shown) { of.part = shown; of.bar.style.transform = `scaleX(${shown})`; }
}

// A square for each simulated user: filled when Redis says the same, edged when it says something else.
function drawCrowd(canvas, how, room, colour) {
  const width = Math.max(60, room), size = how.length > 150 ? 8 : 10, side = size - 3;
  const columns = Math.floor(width / size), height = Math.ceil(how.length / columns) * size;
  const sharpness = window.devicePixelRatio || 1;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.width = width * sharpness;
  canvas.height = height * sharpness;
  const agreed = how.filter((each) => each === "ok").length;
  canvas.setAttribute("aria-label", `${plural(how.length, "simulated user")}, Redis agrees on ${agreed}`);
  const pen = canvas.getContext("2d");
  if (!pen || !height) return;
  pen.scale(sharpness, sharpness);
  how.forEach((each, i) => {
    const x = (i % columns) * size, y = Math.floor(i / columns) * size;
    if (each === "ok" || each === "unknown") {
      pen.globalAlpha = 0.6;
      pen.fillStyle = each === "ok" ? colour : UNKNOWN_COLOUR;
      pen.fillRect(x, y, side, side);
      return;
    }
    pen.globalAlpha = 1;
    pen.lineWidth = 1.6;
    pen.strokeStyle = pen.fillStyle = FALSE_COLOUR;
    pen.strokeRect(x + 0.8, y + 0.8, side - 1.6, side - 1.6);
    if (each === "elsewhere") pen.fillRect(x + 2, y + 2, side - 4, side - 4);
  });
}

function legend() {
  return h("p", { class: "legend" }, h("span", { class: "ttl" }, h("i")), " lease, as Redis says",
    h("i", { class: "edge" }), " Redis says something else", h("i", { class: "square" }), " simulated user");
}
