// Curves over time: a line for each point, its interval as a band, the trained horizon and the clock.

const EDGE = { top: 8, right: 18, bottom: 22, left: 46 };
const HIGH = 200;

// Times of a curve whose first and last are known.
const timeAt = (span, count, n) => (count < 2 ? span[0] : span[0] + ((span[1] - span[0]) * n) / (count - 1));

function valueAt(values, span, time) {
  if (!values || time < span[0] - 1 || time > span[1] + 1) return null;
  const share = span[1] > span[0] ? (time - span[0]) / (span[1] - span[0]) : 0;
  return values[Math.min(values.length - 1, Math.max(0, Math.round(share * (values.length - 1))))];
}

function ticks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(Math.abs(at) < step / 1e6 ? 0 : at);
  return found;
}

const short = (value) => (value === null || value === undefined ? "-" : String(Number(value.toPrecision(3))));

class Chart {
  constructor(curve, view) {
    this.curve = curve;
    this.view = view;
    this.hover = null;
    this.values = curve.points.map(() => el("span"));
    this.when = el("span", { class: "when" });
    this.readout = el("p", { class: "readout" }, this.when, ...this.values);
    this.holder = el("div", { class: "chart" });
    const told = curve.direction || "no level is better than another";
    this.card = el("article", { class: "card" }, el("h3", {}, curve.name), el("p", {}, told), this.holder, this.readout);
  }

  // What is drawn: [point, span, values, low, high].
  lines() {
    const found = [];
    this.curve.points.forEach((point, n) => {
      if (!point || this.view.hidden.has(n)) return;
      if (!this.view.single) found.push([n, point.times, point.mean, point.low, point.high]);
      else if (point.each[this.view.prompt]) found.push([n, point.fine, point.each[this.view.prompt]]);
    });
    return found;
  }

  draw() {
    const wide = this.view.wide;
    const lines = this.lines();
    const known = lines.flatMap(([, , ...rows]) => rows.flatMap((row) => (row || []).filter((each) => each !== null)));
    if (this.curve.truth !== null && known.length) known.push(this.curve.truth);
    let [low, high] = known.reduce(([a, b], each) => [Math.min(a, each), Math.max(b, each)], [Infinity, -Infinity]);
    if (!known.length) [low, high] = [0, 1];
    if (high - low < 1e-9 + 1e-6 * Math.abs(high)) [low, high] = [low - Math.abs(low || 1) * 0.1, high + Math.abs(high || 1) * 0.1];
    const pad = (high - low) * 0.05;
    [low, high] = [low - pad, high + pad];
    const length = this.view.length;
    this.x = (time) => EDGE.left + ((wide - EDGE.left - EDGE.right) * time) / length;
    const y = (value) => HIGH - EDGE.bottom - ((HIGH - EDGE.top - EDGE.bottom) * (value - low)) / (high - low);
    const name = `${this.curve.name} over time, ${lines.length} points`;
    const picture = svg("svg", { width: wide, height: HIGH, viewBox: `0 0 ${wide} ${HIGH}`, role: "img", "aria-label": name });
    for (const each of ticks(low, high, 4)) {
      picture.append(svg("line", { class: "rule", x1: EDGE.left, x2: wide - EDGE.right, y1: y(each), y2: y(each) }));
      picture.append(text(EDGE.left - 6, y(each) + 3.5, short(each), "end"));
    }
    const times = ticks(0, length, wide < 420 ? 4 : 6);
    times.forEach((each) => picture.append(text(this.x(each), HIGH - 6, `${short(each)} s`, "middle")));
    const { horizon } = this.view;
    if (horizon > 0 && horizon < length) {
      picture.append(svg("line", { class: "horizon", x1: this.x(horizon), x2: this.x(horizon), y1: EDGE.top, y2: HIGH - EDGE.bottom }));
    }
    if (this.curve.truth !== null) {
      picture.append(svg("line", { class: "truth", x1: EDGE.left, x2: wide - EDGE.right, y1: y(this.curve.truth), y2: y(this.curve.truth) }));
      picture.append(text(wide - EDGE.right - 2, y(this.curve.truth) - 4, "true videos", "end"));
    }
    for (const [n, span, , lows, highs] of lines) if (lows) picture.append(this.band(n, span, lows, highs, y));
    for (const [n, span, values] of lines) {
      picture.append(svg("path", { class: `line s${n % 8}`, d: trace(values, span, this.x, y), "data-point": n }));
    }
    this.cursor = svg("line", { class: "cursor", y1: EDGE.top, y2: HIGH - EDGE.bottom });
    picture.append(this.cursor);
    picture.addEventListener("pointermove", (event) => this.show(this.timeOf(event)));
    picture.addEventListener("pointerleave", () => this.show(null));
    picture.addEventListener("click", (event) => this.view.seek(this.timeOf(event)));
    this.holder.replaceChildren(picture);
    this.move();
  }

  band(n, span, lows, highs, y) {
    const up = [], down = [];
    lows.forEach((value, k) => {
      if (value === null || highs[k] === null) return;
      const x = this.x(timeAt(span, lows.length, k)).toFixed(1);
      up.push(`${x},${y(highs[k]).toFixed(1)}`);
      down.push(`${x},${y(value).toFixed(1)}`);
    });
    return svg("polygon", { class: `band f${n % 8}`, points: [...up, ...down.reverse()].join(" ") });
  }

  timeOf(event) {
    const x = event.clientX - this.holder.getBoundingClientRect().left;
    const share = (x - EDGE.left) / (this.view.wide - EDGE.left - EDGE.right);
    return Math.min(1, Math.max(0, share)) * this.view.length;
  }

  show(time) {
    this.hover = time;
    this.move();
  }

  // The clock, or where the pointer is, and the values there.
  move() {
    const time = this.hover ?? this.view.time;
    const x = this.x(time).toFixed(1);
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    this.when.textContent = seconds(time);
    const shown = new Map(this.lines().map((line) => [line[0], line]));
    this.values.forEach((node, n) => {
      const line = shown.get(n);
      node.replaceChildren(...(line ? [swatch(n), short(valueAt(line[2], line[1], time))] : []));
    });
  }
}

function trace(values, span, x, y) {
  let path = "", down = false;
  values.forEach((value, n) => {
    if (value !== null) path += `${down ? "L" : "M"}${x(timeAt(span, values.length, n)).toFixed(1)} ${y(value).toFixed(1)}`;
    down = value !== null;
  });
  return path;
}

const text = (x, y, content, anchor) => svg("text", { x, y, "text-anchor": anchor }, content);
