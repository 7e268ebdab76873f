// Puts the page to work: videos under one scrubber, contact sheets, curves and keys.

const data = JSON.parse(byId("data").textContent);
const player = new Player(data);
const lengths = data.curves.flatMap((curve) => curve.points.map((point) => (point ? point.times[1] : 0)));
const view = {
  hidden: new Set(), single: false, prompt: 0, time: 0, wide: 500, horizon: data.horizon,
  length: Math.max(0.001, ...lengths), seek: (time) => player.seek(time),
};

// The bar.

const options = data.prompts.map((prompt, n) => el("option", { value: n }, `${n + 1}. ${prompt}`));
const select = el("select", { id: "prompt", "aria-label": "Prompt", onchange: () => player.choose(Number(select.value)) }, ...options);
const previous = el("button", { type: "button", "aria-label": "Previous prompt", title: "Previous prompt (p)", onclick: () => player.choose(player.prompt - 1) }, "\u2039");
const next = el("button", { type: "button", "aria-label": "Next prompt", title: "Next prompt (n)", onclick: () => player.choose(player.prompt + 1) }, "\u203a");
const play = el("button", { type: "button", id: "play", "aria-label": "Play", title: "Play or pause (space)", onclick: () => player.toggle() }, "\u25b6");
const range = el("input", { type: "range", id: "scrubber", min: 0, max: 1, step: "any", value: 0, "aria-label": "Time" });
const mark = el("span", { class: "mark", title: "The trained horizon ends here", hidden: true });
const clock = el("output", { id: "clock", for: "scrubber" });
const rates = [0.25, 0.5, 1, 2, 4].map((rate) => el("option", { value: rate, selected: rate === 1 }, `${rate}\u00d7`));
const speed = el("select", { id: "speed", "aria-label": "Speed", onchange: () => player.speed(Number(speed.value)) }, ...rates);
range.addEventListener("input", () => player.seek(Number(range.value)));
byId("bar").append(
  el("div", { class: "prompts" }, previous, select, next),
  el("div", { class: "times" }, play, el("div", { class: "track" }, range, mark), clock, speed),
);

// Videos and contact sheets of one prompt.

let urls = [];
const near = new IntersectionObserver((seen) => {
  for (const { isIntersecting, target } of seen) {
    if (isIntersecting) {
      near.unobserve(target);
      attach(target);
    }
  }
}, { rootMargin: "600px" });

async function attach(target) {
  try {
    const url = target.dataset.href || (await blobUrl(target.dataset.block));
    if (!target.isConnected) URL.revokeObjectURL(url);
    else {
      if (url.startsWith("blob:")) urls.push(url);
      target.src = url;
    }
  } catch (error) {
    target.replaceWith(el("p", { class: "failed" }, `This page was changed on its way: ${error.message}.`));
  }
}

function showVideos(prompt) {
  const told = data.videos.map((row) => row[prompt]);
  const taken = [];
  const shown = told.map((each, n) => {
    const label = el("figcaption", {}, swatch(n), data.points[n]);
    if (!each) return el("figure", {}, label, el("p", { class: "none" }, "no video of this prompt"));
    const video = el("video", { playsinline: true, preload: "auto", "aria-label": `${data.points[n]}: ${data.prompts[prompt]}` });
    video.muted = true;
    const [wide, high] = each.size || [1, 1];
    video.style.aspectRatio = `${wide} / ${high}`;
    Object.assign(video.dataset, each.href ? { href: each.href } : { block: each.video });
    video.addEventListener("error", () => label.append(el("span", { class: "failed" }, " cannot be played here (H.264)")));
    taken.push({ video, fps: each.fps || 16, length: each.seconds });
    return el("figure", {}, label, video);
  });
  byId("grid").replaceChildren(...shown);
  player.take(taken);
  taken.forEach(({ video }) => near.observe(video));
}

function showStrips(prompt) {
  const shown = data.videos.map((row, n) => {
    const told = row[prompt];
    if (!told || !told.strip) return null;
    const image = el("img", { width: told.area[0], height: told.area[1], alt: `${data.points[n]}: ${told.times.length} frames over time` });
    image.dataset.block = told.strip;
    const times = told.times.map((time) => {
      const past = data.horizon > 0 && time > data.horizon;
      return el("button", { type: "button", class: past ? "past" : "", onclick: () => player.seek(time) }, seconds(time));
    });
    const sheet = el("div", { class: "sheet" }, image, el("div", { class: "stamps" }, ...times));
    return el("figure", {}, el("figcaption", {}, swatch(n), data.points[n]), el("div", { class: "box", tabindex: "0" }, sheet));
  });
  byId("strips").replaceChildren(...shown.filter(Boolean));
  document.querySelectorAll("#strips img").forEach((image) => near.observe(image));
}

// Curves.

const charts = data.curves.map((curve) => new Chart(curve, view));
byId("charts").append(...charts.map((chart) => chart.card));

const drawn = new Set();
const coming = new IntersectionObserver((seen) => {
  for (const { isIntersecting, target } of seen) {
    if (isIntersecting) {
      const chart = charts.find((each) => each.card === target);
      coming.unobserve(target);
      drawn.add(chart);
      chart.draw();
    }
  }
}, { rootMargin: "1500px" });

function drawAll() {
  if (!charts.length) return;
  view.wide = Math.max(240, Math.floor(charts[0].holder.clientWidth));
  for (const chart of drawn) chart.draw();
}

const toggles = data.points.map((label, n) => {
  const box = el("input", { type: "checkbox", checked: true });
  box.addEventListener("change", () => {
    if (box.checked) view.hidden.delete(n);
    else view.hidden.add(n);
    drawAll();
  });
  return el("label", {}, box, swatch(n), label);
});
const which = [["mean over prompts, 95 % interval", false], ["this prompt", true]].map(([label, single]) => {
  const dot = el("input", { type: "radio", name: "which", checked: !single });
  dot.addEventListener("change", () => {
    view.single = single;
    drawAll();
  });
  return el("label", {}, dot, label);
});
byId("legend").append(
  el("div", { role: "group", "aria-label": "Points" }, ...toggles),
  el("div", { role: "radiogroup", "aria-label": "Curves" }, ...which),
  ...(data.horizon > 0 ? [el("span", { class: "key" }, "trained horizon")] : []),
);

// What hears of another time or prompt.

player.timeHeard.push((time) => {
  range.value = time;
  play.textContent = player.playing ? "\u275a\u275a" : "\u25b6";
  play.setAttribute("aria-label", player.playing ? "Pause" : "Play");
  const times = data.horizon > 0 ? ` \u00b7 ${(time / data.horizon).toFixed(1)}\u00d7 horizon` : "";
  clock.textContent = `${seconds(time)}${times}`;
  range.setAttribute("aria-valuetext", clock.textContent);
  view.time = time;
  for (const chart of drawn) chart.move();
});

player.promptHeard.push((prompt) => {
  const former = urls;
  urls = [];
  for (const { video } of player.videos) {
    video.removeAttribute("src"); // nothing may still be loading from what is given back
    video.load();
  }
  select.value = prompt;
  view.prompt = prompt;
  showVideos(prompt);
  showStrips(prompt);
  former.forEach((url) => URL.revokeObjectURL(url));
  range.max = player.end;
  range.step = player.frame;
  const inside = data.horizon > 0 && data.horizon < player.length;
  mark.hidden = !inside;
  mark.style.left = `calc((100% - 1rem) * ${inside ? data.horizon / player.end : 0} + 0.5rem)`;
  if (view.single) drawAll();
  if (player.playing) player.play();
});

// Keys.

document.addEventListener("keydown", (event) => {
  const at = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || at.tagName === "SELECT") return;
  const step = event.shiftKey ? 1 : player.frame;
  const onRange = at === range, onButton = at.closest("button, summary, a, label, .box") !== null;
  const answers = {
    n: () => player.choose(player.prompt + 1),
    p: () => player.choose(player.prompt - 1),
    ...(onButton ? {} : { " ": () => player.toggle() }),
    ...(onRange || onButton ? {} : { ArrowLeft: () => player.seek(player.time - step), ArrowRight: () => player.seek(player.time + step) }),
  };
  if (answers[event.key]) {
    event.preventDefault();
    answers[event.key]();
  }
});

player.choose(0);
drawAll();
charts.forEach((chart) => coming.observe(chart.card));
window.addEventListener("beforeprint", () => {
  charts.forEach((chart) => drawn.add(chart));
  drawAll();
});
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth !== width) drawAll();
  width = window.innerWidth;
});
