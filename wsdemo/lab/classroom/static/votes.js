// The question: how many have answered, and, once it is measured, what was said beside what is so?
import { h, plural } from "./elements.js";

export class Votes {
  constructor() { this.element = h("section", { class: "vote", "aria-label": "Question", hidden: true }); }

  draw({ state: { question, voted, answer, tally } }) {
    const key = JSON.stringify([question, voted, answer, tally]);
    if (this._key === key) return;
    this._key = key;
    this.element.hidden = !question;
    if (!question) return;
    const votes = (option) => tally?.[option] ?? 0;
    const all = question.options.reduce((sum, option) => sum + votes(option), 0);
    const most = Math.max(1, ...question.options.map(votes));
    const bar = (option) => {
      const part = h("i");
      part.style.width = `${(100 * votes(option)) / most}%`;
      return h("span", { class: "bar", "aria-hidden": "true" }, part);
    };
    const told = tally === null ? `${plural(voted, "answer")} so far; shown when it has been measured`
      : `Measured: ${answer}. ${votes(answer)} of ${plural(all, "answer")} said so.`;
    this.element.replaceChildren(h("h2", {}, question.text),
      ...question.options.map((option) => h("div", { class: option === answer ? "option right" : "option" },
        h("span", {}, (option === answer ? "✔ " : "") + option), h("b", {}, tally ? String(votes(option)) : ""),
        bar(option))),
      h("p", { role: "status", class: tally ? "measured" : "" }, told));
  }
}
