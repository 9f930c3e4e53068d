// The list of what happened, the newest first.
import { h, set } from "./elements.js";
import { Lines } from "./words.js";
import { clockTime } from "./timeline.js";

const LINES_SHOWN = 60;
const TOLD_AGAIN = 800; // So many entries are looked at when a moment of the past is shown.

export class EventLog {
  constructor() {
    this.element = h("ol", { class: "log", role: "log", "aria-label": "What happened", tabindex: "0" });
    this._clear();
  }

  _clear() {
    this._lines = new Lines();
    this._items = new Map(); // The identity of a line → its element.
    this.element.replaceChildren();
  }

  add(entry, state) {
    const line = this._lines.add(entry, state);
    if (!line) return;
    if (line.isNew) {
      const time = h("time", {}, clockTime(line.t).replace(/ (s|min)$/, ""));
      const item = h("li", { class: line.kind }, time, h("span", {}, line.text));
      this._items.set(line.id, item);
      this.element.prepend(item);
    } else set(this._items.get(line.id)?.lastChild ?? h("span"), line.text);
    while (this._items.size > LINES_SHOWN) {
      const [oldest, item] = this._items.entries().next().value;
      this._items.delete(oldest);
      item.remove();
    }
  }

  // Tell it as it was told at a moment of the past.
  rebuild(run, until, state) {
    this._clear();
    for (let i = Math.max(run.first, until - TOLD_AGAIN); i < until; i++) this.add(run.entry(i), state);
  }
}
