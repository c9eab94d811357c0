"use strict";
// The page of a gallery. Everything that comes from a lake is shown by textContent; its state is the address (#…).
(() => {
  const site = window.masklake.site;
  const PAGE = 60, NAMES = { newest: "newest", doubt: "doubt", count: "number of instances" };
  const $ = (id) => document.getElementById(id);
  const form = $("filters"), zoom = Math.min(2, window.devicePixelRatio || 1);
  const SWITCHES = ["masks", "boxes", "names", "keypoints"];
  const DEFAULTS = { label: "", score: "0.5", size: "", status: "", split: "", source: site.source, with: "", sort: site.sort, page: "1" };
  let redraw = [];      // what draws the pictures on the page again
  let listed = null;    // {key, total}: the list that the gallery shows
  let opener = null;    // the id of the image that was opened, to come back to its card
  let turn = 0;         // grows with each view: an answer that comes late is of an older one

  function element(tag, properties = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name.includes("-") || name === "role" || name === "for") node.setAttribute(name, value); else node[name] = value;
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }
  // Characters that would be hidden, or turn the text around them, are spelled.
  const shown = (text) => String(text).replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
  const baseName = (uri) => shown(uri.replace(/\/+$/, "").split("/").pop() || uri);
  const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

  // ---- the address
  function state() {
    const given = new URLSearchParams(location.hash.slice(1)), values = { ...DEFAULTS };
    for (const [name, value] of given) values[name] = value;
    return values;
  }
  function address(values) {
    const kept = new URLSearchParams();
    for (const [name, value] of Object.entries(values)) if (value !== undefined && value !== null && String(value) !== (DEFAULTS[name] ?? "")) kept.set(name, value);
    return `#${kept}`;
  }
  const listKey = (s) => JSON.stringify([s.label, s.score, s.size, s.status, s.split, s.source, s.sort]);

  // ---- where rows come from
  /** A server that asks the lake. */
  const fromServer = {
    async get(path, values) {
      const answer = await fetch(`${path}?${new URLSearchParams(values)}`, { headers: { Accept: "application/json" } });
      const content = await answer.json().catch(() => ({ error: `the server answers ${answer.status}` }));
      if (!answer.ok) throw new Error(content.error);
      return content;
    },
    page(s, first, size) {
      const { label, score, status, split, source, sort } = s;
      return this.get("api/images", { label, score, size: s.size, status, split, source, sort, with: s.with, first, limit: size });
    },
    async image(s, id) { return (await this.get("api/image", { id, with: s.with, source: s.source })).image; },
    photo: (image, side) => `photo?${new URLSearchParams({ id: image.id, side: side > 640 ? 1600 : 640 })}`,
    async why(image) {
      const answer = await fetch(`photo?${new URLSearchParams({ id: image.id, side: 640 })}`).catch(() => null);
      if (!answer) return "the server does not answer";
      return (await answer.json().catch(() => ({ error: "" }))).error;
    },
  };

  /** Files beside this page: index-N.js has a row an image, details-N.js the instances of some. Scripts, as file:// refuses fetch. */
  const fromFiles = {
    waiting: new Map(), chunks: new Map(), rows: null,
    load(name) {
      if (!this.chunks.has(name)) {
        this.chunks.set(name, new Promise((resolve, reject) => {
          this.waiting.set(name, resolve);
          document.head.append(element("script", { src: `data/${name}.js`, onerror: () => reject(new Error(`data/${name}.js cannot be read: is the whole folder here?`)) }));
        }));
      }
      return this.chunks.get(name);
    },
    async index() {
      if (this.rows) return this.rows;
      const rows = [];
      for (let i = 0; i < site.index_chunks; i++) {
        $("status").textContent = `reading the list: ${count(rows.length, "image")}…`;
        for (const [id, file, uri, width, height, status, error, n, run, image_id, model, time, split, marks, note] of await this.load(`index-${i}`)) {
          rows.push({ id, file, uri, width, height, status: site.status_names[status], error, n, run: site.run_names[run], image_id, model: site.model_names[model], time, split, marks, note, position: rows.length });
        }
      }
      return (this.rows = rows);
    },
    filtered: null,
    async list(s) {
      const rows = await this.index(), key = listKey(s);
      if (this.filtered && this.filtered.key === key) return this.filtered.rows;
      const label = site.classes.findIndex(([name]) => name === s.label), score = Number(s.score);
      const [low, high] = site.sizes[s.size] || [0, Infinity];
      if (s.label && s.label !== "*" && label < 0) throw new Error(`there is no class ${shown(s.label)} here`);
      const chosen = [];
      for (const row of rows) {
        if ((s.status && row.status !== s.status) || (s.split && (row.split || "none") !== s.split)) continue;
        let n = 0, doubt = 0;
        for (let i = 0; i < row.marks.length; i += 3) { // class, score, area
          if ((label >= 0 && row.marks[i] !== label) || row.marks[i + 2] < low || row.marks[i + 2] >= high) continue;
          if (row.marks[i + 1] >= score) n++;
          if (row.marks[i + 1] >= 0.3 && row.marks[i + 1] <= 0.7) doubt++;
        }
        if ((s.label || s.size) && !n) continue;
        chosen.push({ row, n, doubt });
      }
      if (s.sort === "newest" && site.sort !== "newest") chosen.sort((a, b) => (a.row.time < b.row.time ? 1 : a.row.time > b.row.time ? -1 : a.row.position - b.row.position));
      if (s.sort === "count") chosen.sort((a, b) => b.n - a.n || a.row.position - b.row.position);
      if (s.sort === "doubt") chosen.sort((a, b) => b.doubt - a.doubt || b.n - a.n || a.row.position - b.row.position);
      const plain = s.sort === "newest";
      this.filtered = { key, rows: chosen.map(({ row, n, doubt }) => ({ ...row, n: plain && !s.label && !s.size ? row.n : n, doubt: plain ? null : doubt })) };
      return this.filtered.rows;
    },
    async whole(rows, s) {
      return Promise.all(rows.map(async (row) => {
        const [main, labels, other] = (await this.load(`details-${Math.floor(row.position / site.details_per_chunk)}`))[row.position % site.details_per_chunk];
        return { ...row, main, other: s.with === "" ? null : s.with === "labels" ? labels : other };
      }));
    },
    async page(s, first, size) {
      const rows = await this.list(s);
      return { total: rows.length, images: await this.whole(rows.slice(first, first + size), s) };
    },
    async image(s, id) {
      const row = (await this.index()).find((r) => r.id === id);
      if (!row) throw new Error("this image is not among the images here");
      return (await this.whole([row], s))[0];
    },
    photo: (image) => (image.file ? `images/${image.file}` : ""),
    why: async (image) => image.note || "its picture is not in the folder",
  };
  window.masklake.data = (name, content) => fromFiles.waiting.get(name)(content);
  const source = site.served ? fromServer : fromFiles;

  // ---- what is chosen
  function options(name, entries) {
    form.elements[name].replaceChildren(...entries.map(([value, text]) => element("option", { value, textContent: text })));
    form.elements[name].closest("label").hidden = entries.length < 2;
  }
  function fillForm() {
    masks.setClasses(site.classes);
    $("lake").textContent = `${shown(site.lake)} · ${site.shown < site.images ? `${count(site.shown, "image")} of ${site.images.toLocaleString("en")}` : count(site.images, "image")}${site.where ? ` · where ${shown(site.where)}` : ""}`;
    document.title = `Masklake gallery: ${baseName(site.lake)}`;
    options("label", [["", "all images"], ["*", "any class"], ...site.classes.map(([name, n]) => [name, `${shown(name)} (${n.toLocaleString("en")})`])]);
    options("size", [["", "any size"], ["small", "small (below 32² pixels)"], ["medium", "medium"], ["large", "large (from 96² pixels)"]]);
    options("status", [["", "any status"], ...site.statuses.map(([name, n]) => [name, `${name} (${n.toLocaleString("en")})`])]);
    options("split", site.splits.length ? [["", "any split"], ...site.splits.map(([name, n]) => [name, `${name} (${n.toLocaleString("en")})`]), ["none", "not labelled"]] : []);
    options("sort", Object.entries(NAMES));
    const runs = site.runs.map(([run, n, model]) => [run, `${run} · ${shown(model)} · ${count(n, "image")}`]);
    const labels = site.splits.length ? [["labels", "labels"]] : [];
    options("source", site.served ? [...(site.images ? [["", "newest of each image"]] : []), ...runs, ...labels] : []);
    options("with", [["", "nothing"], ...(site.source === "labels" ? [] : labels), ...(site.served ? runs : runs.filter(([run]) => run === site.against))]);
  }
  function showChoice(s) {
    for (const name of ["label", "score", "size", "status", "split", "source", "with", "sort"]) {
      const control = form.elements[name];
      if (control.tagName === "SELECT" && ![...control.options].some((o) => o.value === s[name])) control.append(element("option", { value: s[name], textContent: shown(s[name]) }));
      control.value = s[name];
    }
    $("score-shown").textContent = Number(s.score).toFixed(2);
  }
  const look = () => Object.fromEntries(SWITCHES.map((name) => [name, form.elements[name].checked]));

  // ---- pictures
  /** A photo with a canvas on it. `instances()` gives what is drawn now. */
  function picture(image, box, side, instances, marked, points = () => false) {
    const canvas = element("canvas", { "aria-hidden": "true" });
    const words = image.status === "ok" ? summary(image, instances()) : `${image.status}: ${image.error || "no reason is recorded"}`;
    const photo = element("div", { className: "photo" });
    const why = (text) => { photo.querySelector(".why")?.remove(); if (text) photo.append(element("p", { className: "why", textContent: shown(text) })); };
    const address_ = image.status === "ok" ? source.photo(image, side) : "";
    if (address_) {
      const img = element("img", { alt: `${baseName(image.uri)}: ${words}`, loading: "lazy", decoding: "async" });
      img.onerror = async () => { img.remove(); why(await source.why(image) || "the picture cannot be shown"); };
      img.src = address_;
      photo.append(img);
    } else if (image.status === "ok") source.why(image).then(why);
    else why(`${image.status}: ${image.error || "no reason is recorded"}`);
    photo.append(canvas);
    const width = image.width || 4, height = image.height || 3;
    const paint = () => {
      const [room, tall] = box();
      const k = Math.min(room / width, tall / height) * zoom;
      masks.draw(canvas, [width, height], [Math.max(1, Math.round(width * k)), Math.max(1, Math.round(height * k))], zoom, instances(), { ...look(), points: points(), small: side <= 640 }, site.skeleton, marked);
    };
    redraw.push(paint);
    return { photo, paint };
  }

  const fits = (i, s) => (i.score === null || i.score >= Number(s.score)) && (!s.label || s.label === "*" || i.label === s.label)
    && (!s.size || (i.area >= site.sizes[s.size][0] && i.area < site.sizes[s.size][1]));

  function summary(image, instances) {
    const byClass = new Map();
    for (const i of instances) byClass.set(i.label, (byClass.get(i.label) || 0) + 1);
    return [...byClass].sort((a, b) => b[1] - a[1]).slice(0, 6).map(([label, n]) => `${n} ${shown(label)}`).join(", ") || "no instance at this score";
  }

  /** The two sides of a comparison: which match, and the words for those that do not. */
  function compared(image, s) {
    if (image.other === null || image.other === undefined) return null;
    const ours = image.main.filter((i) => fits(i, s)), theirs = image.other.filter((i) => fits(i, s));
    const { left, right } = masks.match(ours, theirs), toLabels = s.with === "labels";
    return { ours, theirs, left, right, missed: theirs.filter((i) => !right.has(i)), invented: ours.filter((i) => !left.has(i)), words: toLabels ? ["invented", "missed"] : ["only here", "only here"] };
  }
  const absent = (s) => (s.with === "labels" ? "not labelled" : "not in the other run");
  function verdict(both, s) {
    const labels = s.with === "labels";
    return `${both.left.size} matched, ${both.missed.length} ${labels ? "missed" : "only in the other"}, ${both.invented.length} ${labels ? "invented" : "only in this"}`;
  }

  // ---- the gallery
  async function showGallery(s, mine) {
    const page = Math.max(1, Math.floor(Number(s.page)) || 1), first = (page - 1) * PAGE;
    $("status").textContent = "reading…";
    const { total, images } = await source.page(s, first, PAGE);
    if (mine !== turn) return;
    listed = { key: listKey(s), total };
    const pages = Math.max(1, Math.ceil(total / PAGE));
    redraw = [];
    $("cards").replaceChildren(...images.map((image, i) => card(image, s, first + i)));
    $("gallery").hidden = false; $("single").hidden = true;
    $("status").textContent = total === 0 ? empty(s)
      : images.length ? `${(first + 1).toLocaleString("en")}–${(first + images.length).toLocaleString("en")} of ${count(total, "image")}, by ${NAMES[s.sort]}`
      : `page ${page} does not exist: there are ${count(pages, "page")}`;
    $("pager").hidden = total <= PAGE && page === 1;
    $("page-number").value = page; $("page-number").max = pages; $("pages").textContent = `of ${pages.toLocaleString("en")}`;
    $("page-back").disabled = page <= 1; $("page-on").disabled = page >= pages;
    redraw.forEach((paint) => paint());
    if (opener !== null) {
      const back = [...document.querySelectorAll(".card a")].find((a) => a.dataset.id === opener);
      opener = null;
      if (back) back.focus();
    }
  }
  function empty(s) {
    if (!site.images && !site.splits.length) return "The lake is empty: masklake segment SOURCE LAKE makes rows.";
    const failures = site.statuses.filter(([name]) => name !== "ok");
    const onlyFailures = failures.length && !site.statuses.some(([name]) => name === "ok");
    return `No image fits these filters${onlyFailures ? `; none of the lake's images ended ok (${failures.map(([name, n]) => `${n} ${name}`).join(", ")})` : s.score > 0.05 && (s.label || s.size) ? "; a lower score may show some" : ""}.`;
  }
  function card(image, s, position) {
    const both = compared(image, s), chosen = image.main.filter((i) => fits(i, s));
    const { photo } = picture(image, () => [photo.clientWidth || 280, photo.clientHeight || 210], 640, () => chosen, both && ((i) => (both.left.has(i) ? "" : both.words[0])));
    const facts = [];
    if (image.status !== "ok") facts.push(image.status);
    else {
      facts.push(summary(image, chosen));
      if (s.sort === "doubt") facts.push(`${image.doubt} in doubt`);
      if (s.with) facts.push(both ? verdict(both, s) : absent(s));
    }
    const link = element("a", { href: address({ ...s, image: image.id, position }) },
      photo, element("span", { className: "caption" },
        element("span", { className: "key", textContent: baseName(image.uri) }),
        ...facts.map((fact) => element("span", { className: "what", textContent: fact }))));
    link.dataset.id = image.id;
    return element("li", { className: "card" }, link);
  }

  // ---- one image
  async function showSingle(s, mine) {
    const image = await source.image(s, s.image);
    if (mine !== turn) return;
    redraw = [];
    opener = image.id;
    const hidden = new Set(), both = compared(image, s);
    $("single-title").textContent = baseName(image.uri);
    $("single-note").textContent = both ? verdict(both, s) : image.status === "ok" ? (s.with ? absent(s) : "") : `${image.status}: ${shown(image.error || "no reason is recorded")}`;
    $("close").href = address({ ...s, image: "", position: "", page: s.position === undefined ? s.page : Math.floor(Number(s.position) / PAGE) + 1 });
    const sides = [[image.main, s.source === "labels" ? "Labels" : both ? (s.source || "Results") : "Instances", both && both.left, both && both.words[0]]];
    if (both) sides.push([image.other, s.with === "labels" ? "Labels" : s.with, both.right, both.words[1]]);
    $("stages").className = both ? "two" : "";
    $("stages").replaceChildren(...sides.map(([instances, title, matched, word], i) => stage(image, s, instances, title, matched, word, hidden, i)));
    $("facts").replaceChildren(...facts(image, s));
    $("gallery").hidden = true; $("single").hidden = false;
    const position = Number(s.position), known = s.position !== undefined && listed && listed.key === listKey(s);
    $("image-back").disabled = !(s.position !== undefined && position > 0);
    $("image-on").disabled = s.position === undefined || (known && position + 1 >= listed.total);
    redraw.forEach((paint) => paint());
    $("single-title").focus();
  }
  function stage(image, s, instances, title, matched, word, hidden, side) {
    const chosen = instances.filter((i) => fits(i, s)), points = element("input", { type: "checkbox" });
    const { photo, paint } = picture(image, () => [photo.clientWidth || 600, photo.clientHeight || 400], 1600,
      () => chosen.filter((i) => !hidden.has(i)), matched && ((i) => (matched.has(i) ? "" : word)), () => points.checked);
    if (image.width) {
      photo.style.aspectRatio = `${image.width} / ${image.height}`;
      photo.style.maxWidth = `min(100%, calc(82vh * ${(image.width / image.height).toFixed(4)}))`;
    } else photo.style.aspectRatio = "16 / 5";
    const all = element("input", { type: "checkbox", checked: true });
    const boxes = chosen.map((i) => {
      const box = element("input", { type: "checkbox", checked: true });
      box.onchange = () => { if (box.checked) hidden.delete(i); else hidden.add(i); paint(); };
      return box;
    });
    all.onchange = () => boxes.forEach((box, n) => { box.checked = all.checked; if (all.checked) hidden.delete(chosen[n]); else hidden.add(chosen[n]); if (n === boxes.length - 1) paint(); });
    points.onchange = paint;
    const rows = chosen.map((i, n) => {
      const swatch = element("span", { className: "swatch" });
      swatch.style.background = masks.css(masks.colour(i.label));
      const cells = [element("td", {}, element("label", {}, boxes[n], swatch, element("span", { textContent: shown(i.label) }))),
        element("td", { className: "number", textContent: i.score === null ? "–" : i.score.toFixed(2) }),
        element("td", { className: "number", textContent: i.area === null ? "–" : i.area.toLocaleString("en") })];
      if (matched) cells.push(element("td", { textContent: matched.has(i) ? `IoU ${matched.get(i).iou.toFixed(2)}` : word }));
      return element("tr", {}, ...cells);
    });
    const head = ["class", "score", "pixels", ...(matched ? ["match"] : [])].map((text, n) => element("th", { scope: "col", textContent: text, className: n === 1 || n === 2 ? "number" : "" }));
    const hiddenCount = instances.length - chosen.length, withPoints = chosen.filter((i) => i.keypoints);
    const list = element("div", {},
      element("h3", { textContent: `${shown(title)}: ${count(chosen.length, "instance")}` }),
      hiddenCount ? element("p", { textContent: `${hiddenCount} more ${hiddenCount === 1 ? "does" : "do"} not fit the filters` }) : null,
      chosen.length ? element("p", { className: "instances" }, element("label", {}, all, "all"), " ", withPoints.length ? element("label", {}, points, "names of keypoints") : null) : null,
      chosen.length ? element("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": `${shown(title)}: list of instances` },
        element("table", { className: "instances" }, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows))) : null,
      ...withPoints.slice(0, 20).map((i) => element("details", {},
        element("summary", { textContent: `keypoints of ${shown(i.label)}${i.score === null ? "" : ` ${i.score.toFixed(2)}`}: ${i.keypoints.filter(masks.visible).length} of ${i.keypoints.length}` }),
        element("ul", { className: "points" }, ...i.keypoints.map((p) => element("li", { textContent: masks.visible(p) ? `${shown(p[0])}: ${p[1].toFixed(0)}, ${p[2].toFixed(0)}` : `${shown(p[0])}: not seen` }))))));
    return element("figure", {}, element("div", { className: "body" }, element("div", {}, photo), list));
  }
  function facts(image, s) {
    const quoted = `'${image.uri.replaceAll("'", "''")}'`;
    const labels = `select * from labels where uri = ${quoted}`;
    const results = `select * from all_instances where run = '${image.run}' and image_id = ${image.image_id}`;
    const sql = image.image_id === null ? [labels] : [results, `select * from all_images where run = '${image.run}' and image_id = ${image.image_id}`, ...(s.with === "labels" ? [labels] : [])];
    const pairs = [["image", image.uri], ["size", image.width ? `${image.width} × ${image.height} pixels` : "not known"], ["status", image.status], ["error", image.error],
      ["run", image.run], ["model", image.model], ["split", image.split], [image.image_id === null ? "labelled" : "processed", image.time]].filter(([, value]) => value);
    return [element("dl", {}, ...pairs.flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", { textContent: shown(value) })])),
      element("div", {}, element("h3", { textContent: "SQL" }), element("p", { textContent: "For masklake query: what gives these rows." }),
        ...sql.map((text) => element("pre", { textContent: shown(text) })))];
  }
  async function step(by) {
    const s = state(), position = Number(s.position) + by;
    if (s.position === undefined || position < 0) return;
    const { total, images } = await source.page(s, position, 1);
    listed = { key: listKey(s), total };
    if (images.length) location.hash = address({ ...s, image: images[0].id, position });
  }

  // ---- events
  async function render() {
    const s = state(), mine = ++turn;
    showChoice(s);
    try {
      await (s.image ? showSingle(s, mine) : showGallery(s, mine));
    } catch (error) {
      if (mine !== turn) return;
      $("cards").replaceChildren(); $("pager").hidden = true; $("gallery").hidden = false; $("single").hidden = true;
      $("status").textContent = shown(error.message);
    }
  }
  form.addEventListener("change", (event) => {
    const { name, value } = event.target;
    if (SWITCHES.includes(name)) return redraw.forEach((paint) => paint());
    const s = state();
    location.hash = address({ ...s, [name]: name === "score" ? String(Number(value)) : value, page: 1, position: undefined });
  });
  form.elements.score.addEventListener("input", () => { $("score-shown").textContent = Number(form.elements.score.value).toFixed(2); });
  form.addEventListener("submit", (event) => event.preventDefault());
  const turnTo = (page) => { location.hash = address({ ...state(), page }); };
  $("page-back").onclick = () => turnTo(Number($("page-number").value) - 1);
  $("page-on").onclick = () => turnTo(Number($("page-number").value) + 1);
  $("page-number").onchange = () => turnTo(Math.max(1, Math.floor(Number($("page-number").value)) || 1));
  $("image-back").onclick = () => step(-1);
  $("image-on").onclick = () => step(1);
  $("skip").onclick = (event) => { event.preventDefault(); $("main").focus(); };
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const single = !$("single").hidden, ahead = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (single && event.key === "Escape") location.hash = $("close").hash;
    else if (single && (event.key === "ArrowRight" || event.key === "ArrowLeft")) step(ahead);
    else if (!single && ahead) moveFocus(event, ahead);
  });
  function moveFocus(event, ahead) {
    const links = [...document.querySelectorAll(".card a")], now = links.indexOf(document.activeElement);
    if (!links.length) return;
    const across = links.filter((a) => Math.abs(a.offsetParent.offsetTop - links[0].offsetParent.offsetTop) < 4 && a.getBoundingClientRect().top === links[0].getBoundingClientRect().top).length || 1;
    const by = event.key === "ArrowDown" || event.key === "ArrowUp" ? ahead * across : ahead;
    const next = now < 0 ? links[0] : links[now + by];
    if (next) { event.preventDefault(); next.focus(); return; }
    const button = ahead > 0 ? $("page-on") : $("page-back");
    if (Math.abs(by) === 1 && !button.disabled && !$("pager").hidden) { event.preventDefault(); button.click(); }
  }
  let resizing = 0;
  addEventListener("resize", () => { cancelAnimationFrame(resizing); resizing = requestAnimationFrame(() => redraw.forEach((paint) => paint())); });
  addEventListener("hashchange", render);
  if (matchMedia("(max-width: 34rem)").matches) $("choices").open = false;
  fillForm();
  render();
})();
