/**
 * Reconnection: how does a user stay connected, from a browser?
 *
 *     import { Client } from "./wsdemo.js";
 *     const alice = new Client("alice", ["ws://localhost:8081/ws", "ws://localhost:8082/ws"], {
 *       onMessage: ({ from, content }) => console.log(from, content),
 *       onState: (state, why) => console.log(state, why),
 *     });
 *     await alice.start();                               // registered with a gateway
 *     const receipt = await alice.send("bob", "Hello!"); // receipt.status is "routed", or ...
 *     alice.close();
 *
 * The rules are those of the Python client: the close code says whether to come back, the list of
 * gateways says where, and an exponential backoff with full jitter says when. A connection on which
 * a heartbeat is not answered is dead, whatever the browser thinks of it.
 * No dependency, no build step: one file, for browsers and for Node (MIT License).
 *
 * @typedef {"connecting" | "registered" | "reconnecting" | "closed"} State
 * @typedef {"routed" | "offline" | "unreachable" | "busy" | "unknown" | "refused"} Status
 * @typedef {{ id: string, to: string, status: Status | null, error: string, ms: number }} Receipt
 *   What became of a message. `ms` is the time from sending to the first answer. A `routed` message
 *   may come back later: then `status` changes to `unreachable`, and `onReceipt` is called again.
 * @typedef {{ code: number, reason: string, awayMs: number, pauseMs: number, moved: boolean }} Why
 *   The close code that led to this state (0: none), the time since the last connection was lost,
 *   the pause before the next attempt, and whether `move` was called.
 */

/** Close code → its meaning, and whether a client that was closed with it comes back by itself. */
export const CLOSE_CODES = {
  1000: ["bye", false],
  1001: ["gateway gone", true],
  1002: ["protocol error", false],
  1003: ["only text frames are understood", false],
  1007: ["text is not UTF-8", false],
  1009: ["frame too big", false],
  1011: ["internal error", true],
  1012: ["service restart", true],
  1013: ["try again later", true],
  4001: ["no register in time", true],
  4008: ["rate limit", true],
  4009: ["heartbeat timeout", true],
  4010: ["a newer attempt of this client exists", true],
  4011: ["slow consumer", true],
  4012: ["presence could not be refreshed", true],
  4502: ["too many malformed messages", false],
  4504: ["authentication failed", false],
  4505: ["already registered as another user", false],
  4509: ["replaced by a newer session", false],
  4513: ["this user id is not allowed", false],
};

/** Times in milliseconds; `options.times` changes some of them. */
export const TIMES = {
  dial: 5000, register: 8000, close: 1000, ack: 5000, backoffBase: 100, backoffCap: 5000, pongAtLeast: 1000,
};

const STATUSES = ["routed", "offline", "unreachable", "busy", "unknown", "refused"];
const UNCLEAR = [1002, 1005, 1006]; // Codes that say nothing, or were changed on the way.
const AUTH = 4504;
const RECENT = 1024; // Receipts that are kept for a late correction.
const TICK = 250;
const STOOD_STILL = 1000; // A timer that is this late was held back: hidden tab, locked phone, sleep.

/** Say whether a client that was closed with this code may come back by itself. */
export function shouldReconnect(code) {
  return CLOSE_CODES[code]?.[1] ?? !(code >= 4500 && code <= 4999);
}

/** Read the server's advice from the reason of a close frame; 0 when there is none. */
export function retryAfterMs(reason) {
  return Number(/retryAfterMs=(\d{1,7})$/.exec(reason)?.[1] ?? 0);
}

export class Client {
  #socket = null; #hooks; #times; #token; #WebSocket; #start = null;
  #inst = [...crypto.getRandomValues(new Uint8Array(8))].map((b) => b.toString(16).padStart(2, "0")).join("");
  #turn = 0; #round = 0; #failures = 0; #retryTimer; #deadline; #heart; #notBefore = 0;
  #lostAt = 0; #askedAt = 0; #bye = null; #number = 0;
  #pending = new Map(); // Message id → what was not answered yet.
  #recent = new Map(); // Message id → receipt, for corrections.
  #wake = () => { if (globalThis.document?.visibilityState !== "hidden") this.#lookAgain(); };

  /**
   * @param {string} user who we are
   * @param {string | string[]} gateways WebSocket URLs, tried in turn
   * @param {object} [options] `onMessage({from, content, id})`, `onState(state, why)`,
   *   `onReceipt(receipt)`, `onError({error, code})`; `token`: a text, or a function (async or not)
   *   that returns one and is asked at each attempt; `times`; `WebSocket`: another class.
   */
  constructor(user, gateways, { token = "", times = {}, WebSocket = globalThis.WebSocket, ...hooks } = {}) {
    this.user = user;
    this.gateways = [].concat(gateways).map(String);
    if (!this.gateways.length) throw new TypeError("a client needs at least one gateway");
    for (const url of this.gateways) checkUrl(url);
    /** @type {State} */ this.state = "closed";
    this.gatewayId = ""; this.connId = ""; this.heartbeatMs = 30000; this.attempts = 0;
    this.#hooks = hooks; this.#times = { ...TIMES, ...times }; this.#token = token; this.#WebSocket = WebSocket;
  }

  /** The URL in use, or to be tried next. */
  get gateway() { return this.gateways[this.#turn % this.gateways.length]; }

  /**
   * Connect, and stay connected. The promise is fulfilled by the first registration, and rejected
   * when a gateway forbids it. After a close for good (4509, say), call it again to come back.
   */
  start() {
    if (this.state !== "closed") return this.#start.promise;
    this.#start = {};
    this.#start.promise = new Promise((resolve, reject) => Object.assign(this.#start, { resolve, reject }));
    this.#start.promise.catch(() => {}); // Who does not wait for it is told by `onState`.
    this.#failures = 0;
    this.#listen("addEventListener");
    this.#change("connecting");
    this.#dial();
    return this.#start.promise;
  }

  /** Say goodbye and stop; fulfilled when the gateway has answered, or after a second. */
  async close() {
    const socket = this.#letGo();
    if (this.state !== "closed") this.#finish(1000, "closed by us");
    if (socket) await goodbye(socket, this.#times.close);
  }

  /** Leave this gateway and register with another one; it heads the list from now on. */
  async move(url) {
    if (!this.gateways.includes(checkUrl(url))) this.gateways.push(url);
    this.#turn = this.gateways.indexOf(url);
    if (this.state === "closed") return;
    if (this.state === "registered") this.#lostAt = Date.now();
    const socket = this.#letGo(), round = this.#round;
    this.#failures = 0;
    this.#change("reconnecting", { code: 1000, reason: "moved", moved: true });
    if (socket) await goodbye(socket, this.#times.close); // At most one connection at a time.
    if (round === this.#round) this.#dial();
  }

  /**
   * Send a message; fulfilled with the outcome, never rejected. While there is no connection it waits for
   * one: `busy` means that it was not sent. `unknown`: it may have been delivered or not.
   * @returns {Promise<Receipt>}
   */
  send(to, content) {
    const id = `${this.#inst.slice(0, 6)}-${++this.#number}`;
    const receipt = { id, to, status: null, error: "", ms: 0 };
    return new Promise((resolve) => {
      const entry = { receipt, resolve, at: performance.now(), sent: false };
      entry.text = JSON.stringify({ type: "message", to, content, id });
      this.#pending.set(id, entry);
      this.#recent.set(id, receipt);
      if (this.#recent.size > RECENT) this.#recent.delete(this.#recent.keys().next().value);
      if (/\p{Surrogate}/u.test(to + content)) return this.#settle(id, "refused", "half a character");
      if (this.state === "closed") return this.#settle(id, "busy", "closed");
      const tooLate = () => this.#giveUp(id, entry.sent ? "no answer in time" : "not connected");
      entry.timer = setTimeout(tooLate, this.#times.ack);
      return this.#flush();
    });
  }

  // --- staying connected ---------------------------------------------------------------------

  async #dial() {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = undefined;
    const round = ++this.#round;
    let token = "";
    try {
      token = typeof this.#token === "function" ? await this.#token() : this.#token;
      if (round !== this.#round) return;
      this.attempts += 1;
      this.#socket = new this.#WebSocket(this.gateway);
    } catch (problem) {
      if (round === this.#round) this.#ended(1006, String(problem?.message ?? problem));
      return;
    }
    const socket = this.#socket, mark = { inst: this.#inst, att: this.attempts };
    const register = { type: "register", userId: this.user, ...(token && { token }), ...mark };
    // Its own deadline: some blocked connections are reported by the browser only after minutes.
    this.#within(this.#times.dial, "the gateway does not answer");
    socket.onopen = () => {
      this.#within(this.#times.register, "no answer to register");
      socket.send(JSON.stringify(register));
    };
    socket.onmessage = ({ data }) => this.#heard(data);
    socket.onclose = ({ code, reason }) => this.#ended(code, reason);
  }

  #within(ms, reason) {
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.#ended(1006, reason), ms);
  }

  #heard(data) {
    let said;
    try { said = JSON.parse(data); } catch { return; }
    switch (said?.type) {
      case "registered": if (this.state !== "registered") this.#registered(said); break;
      case "pong": this.#askedAt = 0; break;
      case "message":
        this.#hooks.onMessage?.({ from: said.from, content: said.content ?? "", id: said.id ?? null });
        break;
      case "ack": this.#settle(said.id, said.status); break;
      case "error":
        if (said.id) this.#settle(said.id, said.code === "offline" ? "offline" : "refused", said.error);
        else this.#hooks.onError?.({ error: said.error, code: said.code ?? "" });
        break;
      case "bye": this.#bye = said; break; // What the close means, should its code not arrive.
    }
  }

  #registered(said) {
    clearTimeout(this.#deadline);
    this.gatewayId = String(said.gatewayId ?? "");
    this.connId = String(said.connId ?? "");
    this.heartbeatMs = said.heartbeatMs > 0 ? said.heartbeatMs : 30000;
    this.#askedAt = this.#failures = 0;
    this.#beat();
    this.#change("registered");
    this.#lostAt = 0;
    this.#start.resolve();
    this.#flush();
  }

  // A heartbeat in every interval. Timers of a hidden page run late or not at all, and one clock may stop
  // while the machine sleeps: what counts is the time that has really passed, by two clocks.
  #beat() {
    const patience = Math.max(this.#times.pongAtLeast, this.heartbeatMs / 2);
    let last = [performance.now(), Date.now()];
    let beatAt = last[0] + this.heartbeatMs * Math.random(); // Those who came together spread out.
    this.#heart = setInterval(() => {
      const now = [performance.now(), Date.now()];
      const passed = Math.max(now[0] - last[0], now[1] - last[1]);
      last = now;
      // What has arrived meanwhile may not be read yet: ask again before judging.
      if (passed > TICK + STOOD_STILL) { this.#askedAt = 0; beatAt = now[0]; }
      if (this.#askedAt && now[0] - this.#askedAt > patience) this.#ended(1006, "no answer to a heartbeat");
      else if (now[0] >= beatAt) { beatAt = now[0] + this.heartbeatMs; this.#ping(); }
    }, TICK);
  }

  #ping() {
    if (this.#socket?.readyState !== 1) return;
    this.#askedAt ||= performance.now();
    this.#socket.send('{"type":"ping"}');
  }

  // The page is visible or online again. Is there still somebody at the other end?
  #lookAgain() {
    if (this.state === "registered") { this.#askedAt = 0; this.#ping(); }
    else if (this.#retryTimer !== undefined && Date.now() >= this.#notBefore) { this.#failures = 0; this.#dial(); }
  }

  #listen(method) {
    globalThis.document?.[method]("visibilitychange", this.#wake);
    for (const event of ["pageshow", "online"]) globalThis[method]?.(event, this.#wake);
  }

  // --- the end of a connection ---------------------------------------------------------------

  #ended(code, reason) {
    const wasRegistered = this.state === "registered", bye = this.#bye;
    // Its goodbye is not waited for: a gateway that stands still would not answer it for seconds.
    this.#letGo()?.close();
    let advice = retryAfterMs(reason);
    if (bye && UNCLEAR.includes(code)) [code, reason] = [bye.code, CLOSE_CODES[bye.code]?.[0] ?? "as it was announced"];
    if (bye && !advice) advice = Number(bye.retryAfterMs) || 0;
    if (wasRegistered) this.#lostAt = Date.now();
    // A token that had been good has ended: the function may have a fresh one.
    const again = shouldReconnect(code) || (code === AUTH && wasRegistered && typeof this.#token === "function");
    if (!again) return this.#finish(code, reason);
    this.#failures = wasRegistered ? 0 : this.#failures + 1;
    this.#turn += 1;
    const ceiling = Math.min(this.#times.backoffCap, this.#times.backoffBase * 2 ** this.#failures);
    const pauseMs = advice + Math.random() * ceiling;
    this.#notBefore = Date.now() + advice;
    this.#retryTimer = setTimeout(() => this.#dial(), pauseMs);
    return this.#change(this.#lostAt ? "reconnecting" : "connecting", { code, reason, pauseMs });
  }

  // Take the socket out of use: nothing that it still says is heard. Returns it, to be closed.
  #letGo() {
    this.#round += 1;
    clearTimeout(this.#deadline);
    clearTimeout(this.#retryTimer);
    clearInterval(this.#heart);
    this.#retryTimer = undefined;
    const socket = this.#socket;
    this.#socket = this.#bye = null;
    this.gatewayId = this.connId = "";
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
    for (const [id, { sent }] of this.#pending) if (sent) this.#settle(id, "unknown", "the connection broke");
    return socket;
  }

  #finish(code, reason) {
    this.#listen("removeEventListener");
    this.#change("closed", { code, reason });
    for (const id of this.#pending.keys()) this.#giveUp(id, reason);
    this.#start.reject(new Error(`closed with ${code} ${reason}`));
  }

  #change(state, { code = 0, reason = "", pauseMs = 0, moved = false } = {}) {
    this.state = state;
    const awayMs = this.#lostAt ? Date.now() - this.#lostAt : 0;
    this.#hooks.onState?.(state, { code, reason, awayMs, pauseMs, moved });
  }

  // --- messages ------------------------------------------------------------------------------

  #flush() {
    if (this.state !== "registered" || this.#socket?.readyState !== 1) return;
    for (const entry of this.#pending.values()) {
      if (entry.sent) continue;
      entry.sent = true;
      this.#socket.send(entry.text);
    }
  }

  #giveUp(id, why) {
    this.#settle(id, this.#pending.get(id)?.sent ? "unknown" : "busy", why);
  }

  // The first answer settles the promise; a later one corrects the receipt.
  #settle(id, status, error = "") {
    const receipt = this.#recent.get(id), entry = this.#pending.get(id);
    if (!receipt || !STATUSES.includes(status)) return;
    Object.assign(receipt, { status, error });
    if (entry) {
      this.#pending.delete(id);
      clearTimeout(entry.timer);
      receipt.ms = performance.now() - entry.at;
      entry.resolve(receipt);
    }
    this.#hooks.onReceipt?.(receipt);
  }
}

function checkUrl(url) {
  if (!/^wss?:$/.test(new URL(url).protocol)) throw new TypeError(`${url} is no WebSocket URL`);
  return url;
}

function goodbye(socket, withinMs) {
  return new Promise((resolve) => {
    socket.onclose = resolve;
    setTimeout(resolve, withinMs);
    socket.close(1000);
  });
}
