// Undoes embed.py: a comment back into bytes, when they are first asked for.

const PLAIN = { 0x45: 0x3d, 0x30: 0x00, 0x52: 0x0d, 0x47: 0x3e }; // =E = =0 NUL =R CR =G >
const ESCAPE = 0x3d;

const byteOf = new Uint8Array(0x2123); // by character
const all = new TextDecoder("windows-1252").decode(Uint8Array.from({ length: 256 }, (_, n) => n));
for (let n = 0; n < 256; n += 1) byteOf[all.charCodeAt(n)] = n;

const loaded = new Promise((done) => {
  if (document.readyState === "complete") done();
  else window.addEventListener("load", done);
});

// A server that calls the page UTF-8 spoils the bytes; then the page reads itself once more.
async function whole() {
  await loaded;
  if (document.characterSet === "windows-1252") return document;
  const answer = await fetch(location.href);
  const text = new TextDecoder("windows-1252").decode(await answer.arrayBuffer());
  return new DOMParser().parseFromString(text, "text/html");
}

let found = null;
async function blocks() {
  found ??= whole().then((page) => {
    const comments = [...page.body.childNodes].filter((node) => node.nodeType === Node.COMMENT_NODE);
    return new Map(comments.map((node) => [node.data.slice(0, node.data.indexOf(" ")), node]));
  });
  return found;
}

function decode(text, start, size) {
  const bytes = new Uint8Array(size);
  let at = 0;
  for (let n = start; n < text.length; n += 1) {
    const byte = byteOf[text.charCodeAt(n)];
    bytes[at++] = byte === ESCAPE ? PLAIN[text.charCodeAt((n += 1))] : byte;
  }
  if (at !== size) throw new Error(`a file has ${at} bytes instead of ${size}`);
  return bytes;
}

async function blobUrl(id) {
  const text = (await blocks()).get(id).data;
  const start = text.indexOf(":") + 1;
  const [, kind, size] = text.slice(0, start - 1).split(" ");
  return URL.createObjectURL(new Blob([decode(text, start, Number(size))], { type: kind }));
}
