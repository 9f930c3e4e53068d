// Batches of a class as a lab would send them, made up from a seed: for tests of the model, and to
// measure what two hours of it need.

// Mulberry32: a small generator of random numbers, the same for the same seed.
export function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

// Yields batches, ten a second. Users register, leave, move, are refused and erased; gateways crash and
// start; Redis dies; leases are renewed once in `heartbeat` seconds.
export function* batches(seed, { seconds, students = 30, crowd = 0, heartbeat = 5, accidents = 0.02, messages = 2 }) {
  const next = random(seed), pick = (list) => list[Math.floor(next() * list.length)];
  const gateways = ["gateway-01", "gateway-02", "gateway-03"], up = new Set(gateways);
  const names = [...Array(students).keys()].map((i) => `student-${i}`);
  const simulated = [...Array(crowd).keys()].map((i) => `user${String(i).padStart(3, "0")}`);
  const users = [...names, ...simulated];
  const at = new Map(); // User → {gateway, conn}.
  let conn = 0, sent = 0, redis = "up", asked = false;
  const ttl = 3 * heartbeat;
  const set = (user, t) => {
    const gateway = pick([...up]) ?? "gateway-01", before = at.get(user);
    at.set(user, { gateway, conn: `conn-${++conn}` });
    return { k: "set", t, u: user, g: gateway, c: `conn-${conn}`, x: t + ttl, ...(before && { p: before.gateway }) };
  };
  yield { type: "batch", t: 0, e: [...gateways.map((g) => ({ k: "ready", t: 0, g })), ...names.map((u) => ({ k: "seat", t: 0, u, n: `Name of ${u}` }))], n: 0 };
  for (let tick = 1; tick <= seconds * 10; tick++) {
    const t = tick / 10, e = [], b = [];
    for (const user of users) {
      const here = at.get(user);
      if (!here) { if (redis === "up" && next() < 0.2) e.push(set(user, t)); continue; }
      if (redis === "up" && next() < 0.1 / heartbeat) b.push([user, here.gateway, here.conn, t + ttl]);
    }
    for (let i = 0; i < messages && next() < 0.5; i++) {
      sent += 1;
      const from = pick(users), to = pick(users), g = at.get(from)?.gateway ?? "gateway-01";
      e.push({ k: "msg", t, u: from, v: to, g, h: at.get(to)?.gateway ?? "", s: pick(["routed", "routed", "local", "offline", "unreachable"]) });
    }
    if (next() < accidents) e.push(...accident(t));
    if (redis === "down" && next() < 0.02) { redis = "up"; e.push({ k: "redis_up", t }, { k: "beliefs_known", t }); }
    yield { type: "batch", t, ...(e.length && { e }), ...(b.length && { b }), n: sent };
  }

  function accident(t) {
    const user = pick(users), here = at.get(user);
    const leave = () => {
      if (!here) return [];
      at.delete(user);
      return [{ k: "close", t, u: user, g: here.gateway, c: here.conn }, { k: "del", t, u: user, g: here.gateway, c: here.conn }];
    };
    const crash = () => {
      const g = pick(gateways);
      if (!up.has(g)) { up.add(g); return [{ k: "ready", t, g }]; }
      if (up.size === 1) return [];
      up.delete(g);
      const lost = [...at].filter(([, where]) => where.gateway === g).map(([name]) => name);
      for (const name of lost) at.delete(name);
      return [{ k: "crash", t, g }, ...lost.slice(0, 5).map((u) => ({ k: "saw", t, u, c: 1006, s: 0.5 }))];
    };
    const redisDies = () => {
      redis = redis === "up" ? "down" : "up";
      return redis === "down" ? [{ k: "redis_down", t }, { k: "beliefs_unknown", t }] : [{ k: "redis_up", t }, { k: "beliefs_known", t }];
    };
    const lateCleanUp = () => {
      if (!here || redis !== "up") return [];
      const moved = set(user, t);
      return [moved, { k: "close", t, u: user, g: here.gateway, c: here.conn }, { k: pick(["rej", "del"]), t, u: user, g: here.gateway, c: here.conn, r: pick(["other owner", "no entry"]) }];
    };
    const question = () => {
      asked = !asked;
      return asked ? [{ k: "ask", t, q: "How many?", o: ["none", "all"] }, { k: "vote", t, n: 3 }] : [{ k: "reveal", t, a: "none", n: { none: 2, all: 1 } }];
    };
    return pick([leave, leave, crash, redisDies, lateCleanUp, lateCleanUp, question,
      () => [{ k: "freeze", t, g: pick(["redis", "gateway-03"]) }], () => [{ k: "thaw", t, g: pick(["redis", "gateway-03"]) }],
      () => [{ k: "of a later version", t, u: user }], () => [{ k: "unready", t, g: pick(gateways) }], () => [{ k: "drain", t, g: pick(gateways) }]])();
  }
}
