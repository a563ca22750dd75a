// Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
// Sorts and filters the cohort table, and shows scans in three planes. No library, no network. NiiVue 0.69 was tried for the
// planes: one file of 2.3 MB, WebGL 2, and a context of the browser's few for each open scan. It does more than a report
// needs (rendering, drawing, other formats); what is here is a hundredth of its size and draws the exact edges of masks.
"use strict";
(() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const colours = Uint8Array.from(atob(page.colours), (c) => c.charCodeAt(0)); // 256 × RGB
  const MASK = "#ffdd33";
  const TRUTH = "#40c8ff";

  // ---- cohort table -------------------------------------------------------------------------------------------
  const table = document.getElementById("cohort");
  const body = table.tBodies[0];
  const cards = document.getElementById("scans");

  function sortTable(column, descending) {
    const value = (row) => {
      const text = row.cells[column].dataset.sort;
      return text === "" ? null : row.cells[column].dataset.kind === "number" ? Number(text) : text;
    };
    const compare = (a, b) => {
      const x = value(a);
      const y = value(b);
      if (x === null || y === null) return (x === null) - (y === null); // what is missing stays last
      const order = typeof x === "number" ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return descending ? -order : order;
    };
    for (const row of [...body.rows].sort(compare)) {
      body.append(row);
      cards.append(document.getElementById(row.dataset.card));
    }
    for (const header of table.tHead.rows[0].cells) header.removeAttribute("aria-sort");
    table.tHead.rows[0].cells[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  }

  table.tHead.addEventListener("click", (event) => {
    const header = event.target.closest("th");
    if (!header) return;
    const now = header.getAttribute("aria-sort");
    const first = header.dataset.first === "descending";
    sortTable(header.cellIndex, now ? now === "ascending" : first);
  });

  const filter = document.getElementById("filter");
  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    for (const row of body.rows) {
      const hidden = !row.cells[0].dataset.sort.toLowerCase().includes(wanted);
      row.hidden = hidden;
      document.getElementById(row.dataset.card).hidden = hidden;
    }
  });

  // ---- viewer -------------------------------------------------------------------------------------------------
  async function decode(url) {
    const image = new Image();
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(new Error("a picture of this report is damaged"));
      image.src = url;
    });
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  }

  // One channel of a picture of tiled axial slices, as a volume with index (slice * rows + row) * columns + column.
  function untile(pixels, channel, [depth, rows, columns], tiles) {
    const volume = new Uint8Array(depth * rows * columns);
    for (let k = 0, out = 0; k < depth; k++) {
      const top = Math.floor(k / tiles) * rows;
      const left = (k % tiles) * columns;
      for (let r = 0; r < rows; r++) {
        let from = ((top + r) * pixels.width + left) * 4 + channel;
        for (let c = 0; c < columns; c++, from += 4) volume[out++] = pixels.data[from];
      }
    }
    return volume;
  }

  // Position on the colour bar: low 0, threshold 0.5, high 1. The same as ColourScale in colours.py.
  function barPosition(value) {
    const { low, middle, high } = page.scale;
    const t = value < middle ? (0.5 * (value - low)) / (middle - low) : 0.5 + (0.5 * (value - middle)) / (high - middle);
    return Math.min(Math.max(t, 0), 1);
  }

  const PLANES = {
    axial: { width: 2, height: 1, fixed: 0, letters: ["R", "L", "A", "P"], label: "Axial" },
    coronal: { width: 2, height: 0, fixed: 1, letters: ["R", "L", "S", "I"], label: "Coronal" },
    sagittal: { width: 1, height: 0, fixed: 2, letters: ["A", "P", "S", "I"], label: "Sagittal" },
  };

  class Viewer {
    constructor(host, data, scan, map, masks, healthy) {
      this.data = data;
      this.size = data.size;
      this.strides = [data.size[1] * data.size[2], data.size[2], 1];
      this.scan = untile(scan, 0, data.size, data.tiles);
      this.healthy = healthy ? untile(healthy, 0, data.size, data.tiles) : null;
      this.map = untile(map, 0, data.size, data.tiles);
      this.mask = data.hasMask ? untile(masks, 0, data.size, data.tiles) : null;
      this.truth = data.hasTruth ? untile(masks, 1, data.size, data.tiles) : null;
      this.at = data.peak.slice();
      this.flat = data.size[0] === 1;
      this.shades = Array.from({ length: 256 }, (_, level) => {
        const t = level ? barPosition(this.value(level)) : 0;
        const i = 3 * Math.round(255 * t);
        return [colours[i], colours[i + 1], colours[i + 2], level ? Math.min(2 * t, 1) ** 2 : 0];
      });
      this.build(host);
      this.draw();
    }

    value(level) {
      return this.data.low + ((level - 1) / 254) * (this.data.high - this.data.low);
    }

    build(host) {
      host.append(document.getElementById("viewer-template").content.cloneNode(true));
      const find = (selector) => host.querySelector(selector);
      this.opacity = find("[name=opacity]");
      this.readout = find("output");
      this.toggles = Object.fromEntries(["mask", "truth", "cross", "healthy"].map((key) => [key, find(`[name=${key}]`)]));
      this.toggles.mask.closest("label").hidden = !this.mask;
      this.toggles.truth.closest("label").hidden = !this.truth;
      this.toggles.healthy.closest("label").hidden = !this.healthy;
      this.opacity.addEventListener("input", () => this.draw());
      for (const box of Object.values(this.toggles)) box.addEventListener("change", () => this.draw());
      find("button").addEventListener("click", () => this.move(this.data.peak.slice()));
      find("button").hidden = this.flat;
      const planes = this.flat ? [["axial", false], ["axial", true]] : Object.keys(PLANES).map((name) => [name, true]);
      this.views = planes.map(([name, overlay]) => this.addPlane(find(".planes"), PLANES[name], overlay));
    }

    addPlane(parent, plane, overlay) {
      const [width, height] = [this.size[plane.width], this.size[plane.height]];
      const figure = document.createElement("figure");
      figure.style.flexGrow = width; // one scale of millimetres for all planes
      const canvas = document.createElement("canvas");
      const zoom = Math.max(1, Math.round(520 / Math.max(width, height)));
      canvas.width = width * zoom;
      canvas.height = height * zoom;
      const small = document.createElement("canvas");
      small.width = width;
      small.height = height;
      figure.append(canvas);
      const view = { plane, overlay, canvas, zoom, small, slider: null, figure };
      const point = (event) => {
        const box = canvas.getBoundingClientRect();
        const at = this.at.slice();
        const clamp = (share, size) => Math.min(Math.max(Math.floor(share * size), 0), size - 1);
        at[plane.width] = clamp((event.clientX - box.left) / box.width, width);
        at[plane.height] = clamp((event.clientY - box.top) / box.height, height);
        this.move(at);
      };
      canvas.addEventListener("pointerdown", (event) => {
        canvas.setPointerCapture(event.pointerId);
        point(event);
      });
      canvas.addEventListener("pointermove", (event) => event.buttons && point(event));
      if (!this.flat) {
        const slider = document.createElement("input");
        slider.type = "range";
        slider.min = 0;
        slider.max = this.size[plane.fixed] - 1;
        slider.setAttribute("aria-label", `${plane.label} slice`);
        slider.addEventListener("input", () => {
          const at = this.at.slice();
          at[plane.fixed] = Number(slider.value);
          this.move(at);
        });
        view.slider = slider;
        figure.append(slider);
      }
      const caption = document.createElement("figcaption");
      caption.textContent = this.flat ? (overlay ? "Map over picture" : "Picture") : plane.label;
      figure.append(caption);
      parent.append(figure);
      return view;
    }

    move(at) {
      this.at = at;
      this.draw();
    }

    draw() {
      for (const view of this.views) this.drawPlane(view);
      const [k, r, c] = this.at;
      const level = this.map[k * this.strides[0] + r * this.strides[1] + c];
      const score = level ? this.value(level) : null;
      const mm = this.data.affine.slice(0, 3).map((row) => row[0] * r + row[1] * c + row[2] * k + row[3]);
      const where = this.data.letters ? `x ${mm[0].toFixed(0)}, y ${mm[1].toFixed(0)}, z ${mm[2].toFixed(0)} mm` : `row ${r}, column ${c}`;
      const verdict = page.scale.threshold === null || score === null ? "" : score > page.scale.threshold ? " (above threshold)" : " (below threshold)";
      this.readout.textContent = `${where} · map ${score === null ? "outside" : score.toPrecision(3)}${verdict}`;
    }

    drawPlane({ plane, overlay, canvas, zoom, small, slider }) {
      const [width, height] = [small.width, small.height];
      const base = this.at[plane.fixed] * this.strides[plane.fixed];
      const [across, down] = [this.strides[plane.width], this.strides[plane.height]];
      const opacity = overlay ? Number(this.opacity.value) / 100 : 0;
      const shown = this.healthy && this.toggles.healthy.checked ? this.healthy : this.scan;
      const context = small.getContext("2d");
      const pixels = context.createImageData(width, height);
      for (let y = 0, out = 0; y < height; y++) {
        for (let x = 0, i = base + y * down; x < width; x++, i += across, out += 4) {
          const [red, green, blue, alpha] = this.shades[this.map[i]];
          const a = alpha * opacity;
          const grey = shown[i] * (1 - a);
          pixels.data[out] = grey + red * a;
          pixels.data[out + 1] = grey + green * a;
          pixels.data[out + 2] = grey + blue * a;
          pixels.data[out + 3] = 255;
        }
      }
      context.putImageData(pixels, 0, 0);
      const large = canvas.getContext("2d");
      large.imageSmoothingQuality = "high";
      large.drawImage(small, 0, 0, canvas.width, canvas.height);
      const outline = (volume, colour) => this.drawOutline(large, volume, base, across, down, width, height, zoom, colour);
      if (overlay && this.truth && this.toggles.truth.checked) outline(this.truth, TRUTH);
      if (overlay && this.mask && this.toggles.mask.checked) outline(this.mask, MASK);
      if (this.toggles.cross.checked) {
        large.fillStyle = "rgba(120, 220, 120, 0.55)";
        large.fillRect((this.at[plane.width] + 0.5) * zoom, 0, 1, canvas.height);
        large.fillRect(0, (this.at[plane.height] + 0.5) * zoom, canvas.width, 1);
      }
      if (this.data.letters) this.drawLetters(large, plane.letters);
      if (slider) slider.value = this.at[plane.fixed];
    }

    // The exact edges of the mask's voxels, light on a dark halo.
    drawOutline(context, volume, base, across, down, width, height, zoom, colour) {
      const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && volume[base + y * down + x * across] > 127;
      context.beginPath();
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          if (!inside(x, y)) continue;
          const [left, top, right, bottom] = [x * zoom, y * zoom, (x + 1) * zoom, (y + 1) * zoom];
          if (!inside(x - 1, y)) context.moveTo(left, top), context.lineTo(left, bottom);
          if (!inside(x + 1, y)) context.moveTo(right, top), context.lineTo(right, bottom);
          if (!inside(x, y - 1)) context.moveTo(left, top), context.lineTo(right, top);
          if (!inside(x, y + 1)) context.moveTo(left, bottom), context.lineTo(right, bottom);
        }
      }
      context.lineCap = "round";
      context.strokeStyle = "rgba(0, 0, 0, 0.7)";
      context.lineWidth = 4;
      context.stroke();
      context.strokeStyle = colour;
      context.lineWidth = 2;
      context.stroke();
    }

    drawLetters(context, [left, right, top, bottom]) {
      const { width, height } = context.canvas;
      context.font = "600 18px system-ui, sans-serif";
      context.fillStyle = "#e8e8e8";
      context.shadowColor = "#000";
      context.shadowBlur = 4;
      context.textBaseline = "middle";
      context.textAlign = "left";
      context.fillText(left, 6, height / 2);
      context.textAlign = "right";
      context.fillText(right, width - 6, height / 2);
      context.textAlign = "center";
      context.fillText(top, width / 2, 14);
      context.fillText(bottom, width / 2, height - 14);
      context.shadowBlur = 0;
    }
  }

  const viewers = new Map();

  // The viewer of a card; its pictures are decoded once.
  function openViewer(card) {
    if (!viewers.has(card)) viewers.set(card, decodeViewer(card));
    return viewers.get(card);
  }

  async function decodeViewer(card) {
    const host = card.querySelector(".viewer");
    host.dataset.state = "loading";
    const data = JSON.parse(card.querySelector("script.scan-data").textContent);
    const pictures = await Promise.all([data.scan, data.map, data.masks, data.healthy].map((url) => url && decode(url)));
    const viewer = new Viewer(host, data, ...pictures);
    host.dataset.state = "ready";
    return viewer;
  }

  async function goTo(card, region) {
    const details = card.querySelector("details");
    details.open = true;
    const viewer = await openViewer(card);
    viewer.move(viewer.data.places[region].slice());
    details.scrollIntoView({ block: "nearest" });
  }

  cards.addEventListener("toggle", (event) => {
    if (event.target.open) openViewer(event.target.closest(".card"));
  }, true);
  cards.addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    const details = card?.querySelector("details");
    const button = event.target.closest("button[data-region]");
    if (button) goTo(card, Number(button.dataset.region));
    else if (details && event.target.closest(".thumbnails")) details.open = !details.open;
  });

  function openFromAddress() {
    const card = /^#scan-\d+$/.test(location.hash) && document.getElementById(location.hash.slice(1));
    const details = card && card.querySelector("details");
    if (details) details.open = true;
  }
  window.addEventListener("hashchange", openFromAddress);
  openFromAddress();
})();
