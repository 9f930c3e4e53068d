// Two clients of one user: what does each close code do to them?
// Run in Node as `node story.mjs URL URL`, and in a page by `story(Client, urls)`.

export async function story(Client, urls) {
  // The story waits for what happens, not for a time.
  let look = () => {};
  const changed = () => setTimeout(() => look());
  const happens = (condition) => new Promise((resolve) => {
    look = () => { if (condition()) resolve(); };
    look();
  });
  const codes = []; // Why the laptop lost a connection: 1006 as well, while a gateway goes.
  const laptop = new Client("alice", urls, { onState: (_, { code }) => { codes.push(code); changed(); } });
  const got = [];
  const phone = new Client("alice", urls[1], {
    onState: changed,
    onMessage: ({ content }) => { got.push(content); changed(); },
  });
  const where = (client) => `${client.state} ${client.gatewayId}`.trim();

  await laptop.start();
  console.log(`laptop: ${where(laptop)}`); // The test drains this gateway now.
  await happens(() => laptop.gatewayId === "gateway-02");
  console.log(`laptop: ${where(laptop)}, 1012: ${codes.includes(1012)}`);

  await phone.start();
  await happens(() => laptop.state === "closed");
  console.log(`laptop: ${where(laptop)} ${codes.at(-1)}; phone: ${where(phone)}`);
  await phone.send("alice", "for the newer one");
  await happens(() => got.length > 0);
  console.log(`phone got: ${got}`);

  await laptop.start(); // A person asks for it.
  await happens(() => phone.state === "closed");
  console.log(`laptop: ${where(laptop)}; phone: ${where(phone)}`);
  await Promise.all([laptop.close(), phone.close()]);
}

if (globalThis.process?.argv[2]) {
  const { Client } = await import("../../wsdemo/client/wsdemo.js");
  await story(Client, process.argv.slice(2));
}
