// Virtual time: what happens in ten seconds, without waiting for them?
//
// It replaces the timers and both clocks. `pass` runs what is due, in order; `standStill` lets time
// go by without any timer, as a locked phone does.

export class Clock {
  #timers = new Map();
  #next = 1;
  now = 1_000_000;

  constructor() {
    const add = (run, ms, every) => (this.#timers.set(this.#next, { run, at: this.now + (ms || 0), every }), this.#next++);
    globalThis.setTimeout = (run, ms) => add(run, ms, 0);
    globalThis.setInterval = (run, ms) => add(run, ms, ms);
    globalThis.clearTimeout = globalThis.clearInterval = (id) => this.#timers.delete(id);
    Date.now = () => this.now;
    performance.now = () => this.now;
  }

  get waiting() { return this.#timers.size; }

  standStill(ms) { this.now += ms; }

  async pass(ms) {
    const end = this.now + ms;
    for (;;) {
      await settled();
      const due = [...this.#timers].filter(([, t]) => t.at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      const [id, timer] = due;
      this.now = Math.max(this.now, timer.at);
      if (timer.every) timer.at = this.now + timer.every; else this.#timers.delete(id);
      timer.run();
    }
    this.now = Math.max(this.now, end);
    await settled();
  }
}

// All promises that can go on without a timer have gone on.
export async function settled() {
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

// A WebSocket without a network. `Fake.made` has all of them; a test plays the gateway.
export class Fake {
  static made = [];
  readyState = 0; sent = []; onopen = null; onmessage = null; onclose = null; closedWith = null;

  constructor(url) { this.url = url; Fake.made.push(this); }
  send(text) { this.sent.push(JSON.parse(text)); }
  close(code = 1000) { this.closedWith = code; this.readyState = 2; }

  // --- what the gateway does ---
  open() { this.readyState = 1; this.onopen?.(); }
  say(document) { this.onmessage?.({ data: JSON.stringify(document) }); }
  end(code, reason = "") { this.readyState = 3; this.onclose?.({ code, reason }); }
  register(gatewayId = "gateway-01", heartbeatMs = 4000) {
    this.open();
    this.say({ type: "registered", gatewayId, connId: "c1", heartbeatMs });
  }
}
