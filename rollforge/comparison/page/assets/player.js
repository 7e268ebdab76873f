// One clock for all videos of a prompt.

const APART = 0.1; // seconds that a video may be away from the clock while it plays

class Player {
  constructor(data) {
    this.data = data;
    this.prompt = 0;
    this.time = 0;
    this.length = 0;
    this.rate = 1;
    this.playing = false;
    this.frame = 1 / 16;
    this.videos = [];
    this.timeHeard = [];
    this.promptHeard = [];
    this.tick = this.tick.bind(this);
  }

  // Takes the videos of another prompt; they are told as { video, length, fps }.
  take(videos) {
    this.videos = videos;
    this.length = Math.max(0, ...videos.map((each) => each.length));
    this.frame = 1 / Math.max(1, ...videos.map((each) => each.fps));
    for (const { video } of videos) {
      video.addEventListener("loadedmetadata", () => this.join(video));
      video.addEventListener("seeked", () => {
        if (Math.abs(video.currentTime - this.wanted(video)) > this.frame / 4 && !this.playing) this.place(video);
      });
    }
  }

  join(video) {
    this.place(video);
    if (this.playing) this.run(video);
  }

  wanted(video) {
    const end = Number.isFinite(video.duration) ? video.duration : this.length;
    return Math.min(this.time + 0.001, Math.max(0, end - this.frame / 2)); // just inside the frame
  }

  place(video) {
    if (video.readyState > 0 && !video.seeking) video.currentTime = this.wanted(video);
  }

  seek(time) {
    this.time = Math.min(Math.max(0, time), this.end);
    for (const { video } of this.videos) this.place(video);
    this.tell();
  }

  get end() {
    return Math.max(0, this.length - this.frame);
  }

  tell() {
    for (const heard of this.timeHeard) heard(this.time);
  }

  choose(prompt) {
    const count = this.data.prompts.length;
    this.prompt = (prompt + count) % count;
    for (const heard of this.promptHeard) heard(this.prompt);
    this.seek(this.time);
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  play() {
    if (this.time >= this.end) this.seek(0);
    this.playing = true;
    for (const { video } of this.videos) this.run(video);
    this.since = null;
    requestAnimationFrame(this.tick);
    this.tell();
  }

  run(video) {
    video.playbackRate = this.rate;
    if (video.readyState > 0) video.play().catch(() => {});
  }

  pause() {
    this.playing = false;
    for (const { video } of this.videos) video.pause();
    this.seek(Math.round(this.time / this.frame) * this.frame);
  }

  speed(rate) {
    this.rate = rate;
    for (const { video } of this.videos) video.playbackRate = rate;
  }

  // The longest video that runs leads; the others are brought to it where they are too far away.
  tick(now) {
    if (!this.playing) return;
    const running = this.videos.filter(({ video }) => video.readyState > 1 && !video.ended);
    const lead = running.reduce((best, each) => (best && best.length >= each.length ? best : each), null);
    if (lead && !lead.video.seeking) this.time = Math.min(lead.video.currentTime, this.end);
    for (const each of running) {
      const away = Math.abs(each.video.currentTime - this.time);
      if (each !== lead && !each.video.seeking && away > APART * Math.max(1, this.rate) && this.time < each.length) {
        each.video.currentTime = this.time;
      }
    }
    const over = this.videos.length > 0 && this.videos.every(({ video }) => video.ended || !video.src);
    if (over && this.videos.some(({ video }) => video.ended)) {
      this.time = this.end;
      this.pause();
      return;
    }
    this.tell();
    requestAnimationFrame(this.tick);
  }
}
