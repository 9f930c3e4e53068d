// Redis: what does it say, user by user? Drawn from its own answers only. While it cannot be asked,
// nothing is drawn as known.
import { redisAnswers } from "./model.js";
import { redisButtons } from "./controls.js";
import { glyph, h, plural, role, set, short } from "./elements.js";
import { drawBar } from "./gateways.js";

export class RedisPanel {
  constructor(act) {
    this._rows = new Map(); // User → {element, ...}.
    this._state = h("span", { class: "state" });
    this._crowd = h("span", { class: "crowd-belief" });
    this._table = h("div", { class: "beliefs", role: "table", "aria-label": "What Redis says" });
    this._away = h("p", { class: "cannot", role: "status", hidden: true });
    this.hub = h("span", { class: "hub", "aria-hidden": "true" }); // Where messages pass.
    this.buttons = redisButtons(act);
    this.head = h("header", {}, this.hub, h("h2", {}, "Redis says"), this._state, this._crowd, this.buttons);
    this.element = h("section", { class: "redis", "aria-label": "Redis" }, this.head, this._table, this._away);
  }

  rowOf(user) { return this._rows.get(user)?.element; }

  draw(scene, crowd) {
    const { state, people } = scene, answers = redisAnswers(state);
    this.element.dataset.status = state.redis === "up" && !answers ? "silent" : state.redis;
    set(this._state, { up: answers ? "" : "does not answer", down: "killed", frozen: "frozen" }[state.redis]);
    this._away.hidden = answers;
    set(this._away, answers ? "" : "Redis cannot be asked: nobody knows where anybody is");
    set(this._crowd, answers && crowd.all ? crowdInWords(crowd) : "");
    this._table.dataset.crowding = people.length > 40 ? 2 : people.length > 24 ? 1 : 0;
    const brief = people.length > 24;
    for (const [user, { name }] of people) this._drawRow(this._row(user), user, name, answers, brief, scene);
    for (const [user, { element }] of this._rows) if (!state.users[user]) { element.remove(); this._rows.delete(user); }
  }

  _row(user) {
    if (!this._rows.has(user)) {
      const who = h("span", { class: "who", role: "cell" }), where = h("span", { class: "where", role: "cell" });
      const bar = h("i"), left = h("span", { class: "left", role: "cell" });
      const element = h("div", { class: "belief", role: "row" }, who, where, h("span", { class: "ttl" }, bar), left);
      this._table.append(element);
      this._rows.set(user, { element, who, where, bar, left, how: "", part: "" });
    }
    return this._rows.get(user);
  }

  _drawRow(row, user, name, answers, brief, { state, names, lab, at, drawBars }) {
    const belief = answers ? state.belief[user] : null, left = belief ? belief[2] - state.t : 0;
    const gateway = left > 0 ? belief[0] : "", sockets = at.get(user) ?? [];
    const how = !answers ? "unknown" : howItIs(gateway, sockets);
    set(row.who, name);
    if (row.how !== `${how} ${gateway} ${brief}`) {
      row.how = `${how} ${gateway} ${brief}`;
      row.element.dataset.how = how;
      const nowhere = how === "unknown" ? "?" : "nobody";
      row.where.replaceChildren(...(gateway ? [glyph(gateway, names, 12), brief ? short(gateway) : gateway] : [nowhere]));
      row.bar.style.background = gateway ? role(gateway, names).colour : "";
    }
    if (!drawBars) return;
    drawBar(row, left / lab.ttl);
    set(row.left, gateway ? `${left.toFixed(0)} s` : "");
  }
}

// Redis names a gateway ("" is none); the user has connections there, elsewhere, or none.
function howItIs(gateway, sockets) {
  if (gateway) return sockets.includes(gateway) ? "ok" : "ghost";
  return sockets.length ? "forgotten" : "none";
}

function crowdInWords({ all, right, wrong, old }) {
  return `${all} simulated: ${right} right${wrong ? `, ${wrong} wrong` : ""}${old ? `; ${plural(old, "old connection")}` : ""}`;
}
