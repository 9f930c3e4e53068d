// Time: which moment is shown? Live, or a moment of the past: paused, step by step, or played again.
import { MARKED } from "./model.js";
import { h, set } from "./elements.js";

const SPEEDS = [["0.1", "1/10"], ["0.25", "1/4"], ["1", "1×"], ["4", "4×"]];
const TICKS_SHOWN = 300;

export class Timeline {
  // board: is asked to `seek` a time, to `step` by one entry, and to `jump` to where `at` is.
  constructor(board) {
    this.board = board;
    this.at = 0; // The moment that is shown, in seconds since the record began.
    this.live = true;
    this.playing = true;
    this.speed = 1;
    this.recorded = false; // A saved run: there is no live.
    this._build();
  }

  _build() {
    const button = (text, label, onclick) => h("button", { type: "button", "aria-label": label, onclick }, text);
    this.playButton = h("button", { type: "button", class: "play", onclick: () => this.toggle() }, "Pause");
    this.liveButton = h("button", { type: "button", class: "live", onclick: () => this.goLive() }, "Live");
    this.slider = h("input", { type: "range", min: 0, max: 1, step: 0.001, value: 1, "aria-label": "Time",
      oninput: () => this.board.seek(Number(this.slider.value)) });
    this.ticks = h("div", { class: "ticks", "aria-hidden": "true" });
    this.clock = h("output", { class: "clock" });
    const speed = h("select", { "aria-label": "Speed", onchange: () => { this.speed = Number(speed.value); } },
      ...SPEEDS.map(([value, label]) => h("option", { value, selected: value === "1" }, label)));
    this.element = h("footer", {}, this.playButton, button("◀", "One step back", () => this.board.step(-1)),
      button("▶", "One step on", () => this.board.step(1)), speed,
      h("div", { class: "track" }, this.ticks, this.slider), this.clock, this.liveButton);
  }

  // Go on by the time that has passed.
  advance(run, seconds) {
    if (this.live) this.at = run.end;
    else if (this.playing) {
      this.at = Math.min(run.end, this.at + seconds * this.speed);
      if (this.at >= run.end) { if (this.recorded) this.pause(); else this.goLive(); }
    }
    this.at = Math.max(this.at, run.begin);
  }

  toggle() { if (this.playing) this.pause(); else this.play(); }

  pause() { this.live = this.playing = false; }

  play() {
    const { run } = this.board;
    if (this.at >= run.end - 0.05) { this.at = run.begin; this.board.jump(); }
    this.live = false;
    this.playing = true;
  }

  goLive() {
    if (this.recorded) return;
    this.live = this.playing = true;
    this.at = this.board.run.end;
    this.board.jump();
  }

  key(event) {
    if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && event.target.matches("button")) return; // It presses that button.
    const keys = {
      " ": () => this.toggle(), l: () => this.goLive(), Escape: () => this.board.choose(""),
      ArrowLeft: () => this.board.step(-1), ArrowRight: () => this.board.step(1),
    };
    if (keys[event.key]) { keys[event.key](); event.preventDefault(); }
  }

  draw(run) {
    const end = Math.max(run.begin + 0.001, run.end);
    this.slider.min = run.begin;
    this.slider.max = end;
    if (document.activeElement !== this.slider || this.live || this.playing) this.slider.value = this.at;
    this.slider.setAttribute("aria-valuetext", `${this.at.toFixed(1)} seconds of ${end.toFixed(0)}`);
    set(this.clock, clockTime(this.at));
    set(this.playButton, this.playing ? "Pause" : "Play");
    set(this.liveButton, this.live ? "● Live" : "Live");
    this.liveButton.disabled = this.live;
    this.liveButton.hidden = this.recorded;
    // Not at each frame: a mark moves by a hair.
    if (this._marks === run.marks.length && Math.abs(end - (this._end ?? 0)) < 2) return;
    [this._marks, this._end] = [run.marks.length, end];
    this.ticks.replaceChildren(...run.marks.slice(-TICKS_SHOWN).map(({ kind, t }) => {
      const tick = h("i", { class: kind, title: `${MARKED[kind]} at ${clockTime(t)}` });
      tick.style.left = `${(100 * (t - run.begin)) / (end - run.begin)}%`;
      return tick;
    }));
  }
}

export function clockTime(t) {
  return t < 600 ? `${t.toFixed(1)} s` : `${Math.floor(t / 60)}:${String(Math.floor(t % 60)).padStart(2, "0")} min`;
}
