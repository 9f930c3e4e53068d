// What moves and flashes: messages on their way, and what Redis has refused.
//
// Who asked for less motion sees the same without movement: the way of a message is drawn as a line
// for a moment.
import { draw, h, role, shield } from "./elements.js";

const FLIGHTS = 14; // At once; of more, some are not shown.
const FLIGHT_MS = 1300;
const FLASH_MS = 3200;
const TAGS = 6;

export class Motion {
  constructor(stage, gateways, redis) {
    this._stage = stage;
    this._gateways = gateways;
    this._redis = redis;
    this._sky = draw("svg", { class: "sky", "aria-hidden": "true" });
    stage.append(this._sky);
    this._calm = matchMedia("(prefers-reduced-motion: reduce)");
    this._flights = 0;
    this._refusedAt = new Map();
    this._rects = new Map();
    this._flashing = new Map(); // Element → {class → timer}.
  }

  // Rectangles are measured once a frame: what is measured after every change is laid out after each.
  newFrame() { this._rects.clear(); }

  // A moment of the past is shown: nothing that flashed belongs to it.
  clear() {
    for (const [element, timers] of this._flashing) {
      for (const [name, timer] of Object.entries(timers)) { clearTimeout(timer); element.classList.remove(name); }
    }
    this._flashing.clear();
    this._refusedAt.clear();
    this._sky.replaceChildren();
    for (const element of this._stage.querySelectorAll(".flight, .tag")) element.remove();
    this._flights = 0;
    this._round = (this._round ?? 0) + 1;
  }

  flash(element, name, ms = 1600) {
    if (!element) return;
    if (!this._flashing.has(element)) this._flashing.set(element, {});
    const timers = this._flashing.get(element);
    clearTimeout(timers[name]);
    element.classList.add(name);
    timers[name] = setTimeout(() => {
      element.classList.remove(name);
      delete timers[name];
      if (!Object.keys(timers).length) this._flashing.delete(element);
    }, ms);
  }

  // An entry of somebody who is connected was erased.
  erased(user) {
    for (const chip of this._gateways.chipsOf(user)) this.flash(chip, "erased", 4000);
    const row = this._redis.rowOf(user);
    this.flash(row, "erased", 4000);
    if (row) this._tag(this._above(row), "erased!", "erased", FLASH_MS);
  }

  // Redis has refused a late clean-up: a dashed line from the gateway to the entry, and a shield.
  // Forty at once are one story: each row flashes, and one tag says why.
  refused(user, gateway) {
    const row = this._redis.rowOf(user) ?? this._redis.head, box = this._gateways.boxOf(gateway);
    this.flash(row, "refused", FLASH_MS);
    for (const chip of this._gateways.chipsOf(user)) this.flash(chip, "kept", FLASH_MS);
    const now = performance.now();
    if (!box || now - (this._refusedAt.get(gateway) ?? -Infinity) < FLASH_MS) return;
    this._refusedAt.set(gateway, now);
    const [x1, y1] = this._centre(box, 1), [x2, y2] = this._centre(row);
    const line = draw("line", { x1, y1, x2, y2, class: "ray" });
    this._sky.append(line);
    setTimeout(() => line.remove(), FLASH_MS);
    this._tag(this._above(row), `${gateway} is not the owner: refused`, "refused", FLASH_MS);
  }

  // A message: from its sender to a gateway, to Redis unless both are at the same, and on.
  // users: those between simulated users are small, and the first to be left out.
  message(entry, users, nameOf, speed) {
    const small = users[entry.u]?.kind === "crowd" && users[entry.v]?.kind === "crowd";
    if (this._flights >= (small ? FLIGHTS / 2 : FLIGHTS) || document.hidden) return;
    const first = this._gateways.headOf(entry.g), second = this._gateways.headOf(entry.h);
    if (!first) return;
    const arrives = ["routed", "local"].includes(entry.s), local = entry.s === "local";
    const from = this._gateways.chipOf(entry.u, entry.g), to = this._gateways.chipOf(entry.v, entry.h ?? "");
    const stops = [from ?? first, first, local ? null : this._redis.hub, local ? null : second, arrives ? to : null]
      .filter(Boolean).map((element) => this._centre(element));
    this._flights += 1;
    const round = this._round;
    this._along(stops, arrives ? role(entry.g).colour : "", small, speed, () => {
      if (round !== this._round) return;
      this._flights -= 1;
      if (arrives) this.flash(to, "got", 900);
      else this._tag(this._missedAt(entry, second), `${nameOf(entry.v)}: ${entry.s}`, "lost");
    });
  }

  _along(stops, colour, small, speed, ended) {
    const lost = colour ? "" : "lost";
    if (this._calm.matches) {
      const line = draw("polyline", { points: stops.map((stop) => stop.join(",")).join(" "), class: `way ${lost}` });
      this._sky.append(line);
      setTimeout(() => { line.remove(); ended(); }, 900);
      return;
    }
    const dot = h("i", { class: `flight ${lost} ${small ? "of-crowd" : ""}` });
    dot.style.background = colour;
    this._stage.append(dot);
    const legs = stops.slice(1).map(([x, y], i) => Math.hypot(x - stops[i][0], y - stops[i][1]) + 40);
    const whole = legs.reduce((sum, leg) => sum + leg, 0);
    let gone = 0;
    const frames = stops.map(([x, y], i) => {
      if (i) gone += legs[i - 1];
      return { transform: `translate(${x}px, ${y}px)`, offset: Math.min(1, gone / whole), easing: "ease-in-out" };
    });
    const flight = dot.animate(frames, { duration: FLIGHT_MS / Math.max(0.5, Math.min(2, speed)), fill: "both" });
    flight.onfinish = () => { dot.remove(); ended(); };
  }

  // Where a message ended that did not arrive: at the gateway that was tried, or else in Redis' head,
  // where nothing is covered.
  _missedAt(entry, second) {
    if (entry.s === "unreachable" && second) return this._centre(second);
    const [x, y] = this._centre(this._redis.head);
    return [x, y];
  }

  // The upper edge of Redis' box, above this row, and left of its buttons: there is nothing to cover.
  _above(row) {
    const buttons = this._redis.buttons.childElementCount ? this._rect(this._redis.buttons) : null;
    const left = buttons?.width ? buttons.left - this._rect(this._stage).left - 170 : Infinity;
    return [Math.min(this._centre(row)[0], left), this._centre(this._redis.element, 0)[1] - 3];
  }

  _centre(element, y = 0.5) {
    const a = this._rect(element), b = this._rect(this._stage);
    return [a.left - b.left + a.width / 2, a.top - b.top + a.height * y];
  }

  _rect(element) {
    if (!this._rects.has(element)) this._rects.set(element, element.getBoundingClientRect());
    return this._rects.get(element);
  }

  _tag([x, y], text, kind, ms = 1800) {
    const tags = this._stage.querySelectorAll(".tag");
    if (tags.length >= TAGS) tags[0].remove();
    const tag = h("div", { class: `tag ${kind}`, "aria-hidden": "true" }, kind === "refused" ? shield() : null, text);
    this._stage.append(tag);
    const half = tag.offsetWidth / 2 + 8;
    tag.style.left = `${Math.max(half, Math.min(this._stage.clientWidth - half, x))}px`;
    tag.style.top = `${y}px`;
    setTimeout(() => tag.remove(), ms);
  }
}
