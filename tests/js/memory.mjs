// Memory: what does a board need for a class of two hours? `node --expose-gc tests/js/memory.mjs [HOURS] [CROWD]`
//
// Thirty students and three hundred simulated users, as fast as it goes. Prints a line for each
// twelve minutes; the last line is JSON, for the test.
import { Run } from "../../wsdemo/lab/classroom/static/model.js";
import { batches } from "./batches.mjs";

const hours = Number(process.argv[2] ?? 2), crowd = Number(process.argv[3] ?? 300);
const heap = () => { globalThis.gc?.(); return process.memoryUsage().heapUsed / 1e6; };
const run = new Run(), began = performance.now(), before = heap(), grown = [];
let added = 0;
for (const text of encoded()) {
  run.add(JSON.parse(text)); // As a page gets it: every text is a new one.
  added += text.length;
  if (run.end >= (grown.length + 1) * 720) {
    grown.push(heap() - before);
    console.log(`${(run.end / 60).toFixed(0).padStart(4)} min: ${grown.at(-1).toFixed(1)} MB of heap for ${(added / 1e6).toFixed(1)} MB of batches, `
      + `${run.total - run.first} entries of ${run.total}, ${run._checkpoints.length} checkpoints, from minute ${(run.begin / 60).toFixed(0)}`);
  }
}
const seconds = (performance.now() - began) / 1000, scrub = performance.now();
for (let i = 0; i < 20; i++) run.after(run.first + Math.floor(((run.total - run.first) * i) / 20));
console.log(JSON.stringify({ grown, rows: run._rows, checkpoints: run._checkpoints.length, marks: run.marks.length,
  seconds, scrubMs: (performance.now() - scrub) / 20 }));

function* encoded() {
  for (const batch of batches(1, { seconds: hours * 3600, students: 30, crowd, messages: 10, accidents: 0.005 })) yield JSON.stringify(batch);
}
