// An entry in words: for the list of what happened, and for those who do not see the picture. Pure.

// Of simulated users only what is rare is told.
const NOT_TOLD_OF_CROWD = ["set", "close", "del", "saw", "msg", "bounce"];
const TOGETHER_S = 4; // Lines of one kind that are no further apart become one line.

// One entry, or several alike: `who` is one name, or "Ada and Alan", or "Ada, Alan and 7 more".
// "" for what is not told.
export function words(e, who, { count = 1, times = [], recipient = "" } = {}) {
  const one = count === 1;
  switch (e.k) {
    case "ready": return `${e.g} is ready`;
    case "unready": return `${e.g} is not ready: it takes no new users`;
    case "drain": return `${e.g} drains: its users are told to go elsewhere`;
    case "stopped": return `${e.g} has stopped`;
    case "crash": return `${e.g} crashed: it said goodbye to nobody`;
    case "stall": return `${e.g} stood still for a moment`;
    case "freeze": return `${e.g === "redis" ? "Redis" : e.g} is frozen`;
    case "thaw": return `${e.g === "redis" ? "Redis" : e.g} goes on`;
    case "fault": return `${e.g}: ${e.r}`;
    case "redis_down": return "Redis was killed: it has forgotten everybody";
    case "redis_up": return "Redis is back, and empty";
    case "beliefs_unknown": return "Redis does not answer";
    case "beliefs_known": return "Redis answers again";
    case "seat": return one ? `${who} took a seat` : `${who} took seats`;
    case "set": return e.p && e.p !== e.g ? `${who} moved from ${e.p} to ${e.g}` : `${who} registered with ${e.g}`;
    case "close": return `${who} left ${e.g}`;
    case "silent": return `${e.g} gave up ${who}: silent for too long (4009)`;
    case "kick": return `${e.g} was told that ${who} ${one ? "is" : "are"} elsewhere (4509)`;
    case "reclaim": return `${e.g} brought ${who} back into Redis`;
    case "del": return e.erased
      ? `${e.g} cleaned up after ${who}, too late, and erased the entry of ${e.erased}`
      : `${e.g} released ${who}`;
    case "rej": return refusal(e, who, one);
    case "msg": return ["routed", "local"].includes(e.s) ? "" : `${who} to ${recipient}: ${e.s}`;
    case "bounce": return `${e.g} has no such session of ${recipient}: the message of ${who} came back`;
    case "ask": return "The class is asked";
    case "reveal": return `Measured: ${e.a}`;
    case "saw": return one
      ? `${who} was closed with ${e.c}, and back after ${e.s} s`
      : `${count} were closed with ${e.c}; back after ${Math.min(...times)} to ${Math.max(...times)} s`;
    default: return "";
  }
}

function refusal(e, who, one) {
  if (e.r === "other owner") return `${e.g} cleaned up after ${who}, too late: refused, not the owner`;
  if (e.r === "no entry") return `${e.g} cleaned up after ${who}: ${one ? "the entry was" : "their entries were"} gone already`;
  return `${e.g} asked for ${who}: refused, ${e.r}`;
}

// How a line is shown: "bad", "warn", "saved" or "".
export function severity(e) {
  if (e.erased || ["crash", "redis_down", "bounce"].includes(e.k)) return "bad";
  if (e.k === "msg") return e.s === "offline" ? "warn" : "bad";
  if (e.k === "rej") return e.r === "other owner" ? "saved" : "";
  return ["drain", "freeze", "silent", "beliefs_unknown"].includes(e.k) ? "warn" : "";
}

// What the lines of several entries have in common, so that they become one; "" for none.
function sameness(e) {
  switch (e.k) {
    case "set": return `set ${e.p ?? ""} ${e.g}`;
    case "seat": return "seat";
    case "saw": return `saw ${e.c}`;
    case "del": return e.erased ? "" : `del ${e.g}`;
    case "rej": return `rej ${e.g} ${e.r}`;
    case "close": case "kick": case "silent": case "reclaim": return `${e.k} ${e.g}`;
    default: return "";
  }
}

// When a gateway dies, thirty lines would say the same: they become one, which grows.
export class Lines {
  constructor() { this._growing = new Map(); }

  // Returns null for what is not told, or {key, isNew, text, kind, t}: a line, new or grown.
  add(entry, state) {
    const user = state.users[entry.u];
    if (entry.again || (user?.kind === "crowd" && !entry.erased && NOT_TOLD_OF_CROWD.includes(entry.k))) return null;
    const nameOf = (id) => state.users[id]?.name ?? id ?? "";
    const recipient = nameOf(entry.v), key = sameness(entry);
    const line = this._growing.get(key);
    if (key && line && entry.t - line.last < TOGETHER_S) {
      line.last = entry.t;
      line.who.add(nameOf(entry.u));
      if (entry.k === "saw") line.times.push(entry.s);
      const count = entry.k === "saw" ? line.times.length : line.who.size;
      return { ...line, isNew: false, text: words(entry, together([...line.who]), { count, times: line.times }) };
    }
    const text = words(entry, nameOf(entry.u), { recipient });
    if (!text) return null;
    const times = entry.k === "saw" ? [entry.s] : [];
    const made = { id: {}, t: entry.t, last: entry.t, kind: severity(entry), who: new Set([nameOf(entry.u)]), times };
    if (key) this._growing.set(key, made);
    return { ...made, isNew: true, text };
  }
}

function together(names) {
  if (names.length <= 2) return names.join(" and ");
  return `${names.slice(0, 2).join(", ")} and ${names.length - 2} more`;
}
