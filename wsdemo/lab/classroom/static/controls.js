// The teacher's controls: what can be broken, and mended? Each asks the lab, which answers in words.
import { glyph, h, set, short } from "./elements.js";

// The buttons of a gateway. Which of them are shown depends on its status (board.css).
export function gatewayButtons(name, freezable, act) {
  const why = freezable ? {} : { disabled: true, title: `Only a gateway of Lab(freezable=["${name}"]) can be frozen` };
  const button = (text, what, attributes = {}) => h("button", {
    type: "button", "data-what": what, "aria-label": `${text} ${name}`, ...attributes,
    onclick: () => act({ what, g: name }),
  }, text);
  return h("span", { class: "acts" }, button("Crash", "crash"), button("Drain", "drain"),
    button("Freeze", "freeze", why), button("Thaw", "thaw"), button("Start", "start"));
}

export function redisButtons(act) {
  const button = (text, what, shown) => h("button", { type: "button", class: shown, onclick: () => act({ what }) }, text);
  return h("span", { class: "acts" },
    button("Kill Redis", "redis_stop", "if-up"), button("Freeze Redis", "redis_freeze", "if-up"),
    button("Start Redis empty", "redis_start", "if-down"), button("Thaw Redis", "redis_thaw", "if-frozen"));
}

// Clean-ups that are held back: for whom to do it next, and which there are.
export class HoldControls {
  constructor(act) {
    this._act = act;
    this.choice = h("div", { class: "choice", hidden: true });
    this.held = h("div", { class: "held", hidden: true });
  }

  // Somebody was chosen, by a click on a chip: at which gateway shall the clean-up wait?
  choose(user, name = "", { state, names } = {}) {
    this.choice.hidden = !user;
    if (!user) return;
    const held = new Set(state.held.filter(([other]) => other === user).map(([, gateway]) => gateway));
    const button = (gateway) => h("button", {
      type: "button", class: "act", disabled: held.has(gateway), "aria-label": `Hold it back at ${gateway}`,
      onclick: () => { this._act({ what: "hold", g: gateway, u: user }); this.choose(""); },
    }, glyph(gateway, names, 12), ` ${short(gateway)}`);
    this.choice.replaceChildren(h("h2", {}, `Hold back the clean-up of ${name} at`),
      h("div", { class: "places" }, ...names.map(button)));
    this.choice.querySelector("button:enabled")?.focus();
  }

  draw({ state, names, nameOf }) {
    const key = JSON.stringify(state.held);
    if (this._key === key) return;
    this._key = key;
    this.held.hidden = !state.held.length;
    const what = (verb) => (verb === "release" ? "clean-up" : verb);
    const letGo = (user, gateway) => this._act({ what: "let_go", g: gateway, u: user });
    this.held.replaceChildren(h("h2", {}, "Held back"), ...state.held.map(([user, gateway, verb, waiting]) =>
      h("div", { class: waiting ? "waits" : "" }, glyph(gateway, names, 13),
        h("span", {}, `${what(verb)} of ${nameOf(user)} at ${gateway}: ${waiting ? "waits" : "will wait"}`),
        h("button", { type: "button", class: "act", onclick: () => letGo(user, gateway) }, "Let go"))));
  }
}

// What the lab says to a press of a button, for some seconds.
export class Notice {
  constructor() { this.element = h("div", { class: "notice", role: "alert", hidden: true }); }

  show(text, kind = "") {
    this.element.hidden = false;
    this.element.setAttribute("class", `notice ${kind}`);
    set(this.element, text);
    clearTimeout(this._timer);
    this._timer = setTimeout(() => { this.element.hidden = true; }, 6000);
  }
}
